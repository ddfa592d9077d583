"""The speech that the ASR adapter is trained on: synthesized once, degraded anew at each step."""

import functools
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from speech_rba.config import AsrAdapter
from speech_rba.synthesis import augment
from speech_rba.synthesis.disfluency import hesitant
from speech_rba.synthesis.voices import voices

MAX_CLIP_SAMPLES = 9 * augment.SAMPLE_RATE
VOICES_PER_TEXT = 2  # each text is synthesized once by each and kept: synthesis takes as long as training


@dataclass(frozen=True)
class SpeechPair:
    """A clean clip and its degraded copy (float32, 16 kHz mono), and the text of both; `rng` draws
    SpecAugment."""

    clean: np.ndarray
    degraded: np.ndarray
    text: str
    rng: np.random.Generator


class SpeechPairs(Dataset):
    """One pair for each place of `order`, which are places in `texts`."""

    def __init__(
        self,
        texts: list[str],
        order: list[int],
        allowed_voices: list[str],
        talkers: list[np.ndarray],
        settings: AsrAdapter,
    ):
        self.texts, self.order, self.settings = texts, order, settings
        self.allowed_voices, self.talkers = allowed_voices, talkers
        self.clean_speech = functools.cache(self._clean_speech)

    @property
    def transcripts(self) -> list[str]:
        """The text of each pair."""
        return [self.texts[place] for place in self.order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> SpeechPair:
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, index])
        clean = self.clean_speech(self.order[index], int(rng.integers(VOICES_PER_TEXT)))
        degraded = augment.augment_for_asr(clean, self.talkers, settings, rng)
        degraded = augment.at_level(degraded, uniform(rng, settings.level_db))[:MAX_CLIP_SAMPLES]
        return SpeechPair(clean, degraded, self.texts[self.order[index]], rng)

    def _clean_speech(self, place: int, number: int) -> np.ndarray:
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, place, number])
        voice, rate = voices.draw_voice(self.allowed_voices, rng), uniform(rng, settings.rate)
        pitch, text = uniform(rng, settings.pitch_semitones), self.texts[place]
        if rng.random() < settings.hesitant_share:  # the transcript stays without the hesitations
            text = hesitant(text, rng)
        speech = voices.say(voice, text, rate, pitch)[:MAX_CLIP_SAMPLES]
        return augment.at_level(speech, float(np.mean(settings.level_db)))


def uniform(rng: np.random.Generator, bounds: list[float]) -> float:
    low, high = bounds
    return rng.uniform(low, high)


def training_order(lengths: list[int], num_batches: int, batch_size: int, seed: int) -> list[int]:
    """Places of the texts to train on, `num_batches * batch_size`: each pass takes every text, and a batch
    holds texts of similar lengths."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < num_batches * batch_size:
        batches = shuffled_batches(lengths, batch_size, rng)
        order += [int(place) for i in rng.permutation(len(batches)) for place in batches[i]]
    return order[: num_batches * batch_size]


SORTED_BATCHES = 32  # batches whose texts are sorted together, so that similar lengths share a window


def shuffled_batches(lengths: list[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """The full batches of one pass over the places of `lengths`; the incomplete ones where there is no full
    one."""
    shuffled, block = rng.permutation(len(lengths)), SORTED_BATCHES * batch_size
    blocks = [
        sorted(shuffled[i : i + block], key=lengths.__getitem__) for i in range(0, len(shuffled), block)
    ]
    batches = [b[i : i + batch_size] for b in blocks for i in range(0, len(b), batch_size)]
    return [batch for batch in batches if len(batch) == batch_size] or batches
