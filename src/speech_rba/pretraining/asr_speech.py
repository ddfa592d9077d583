"""The speech that the ASR adapter is trained on: synthesized once, degraded anew at each step."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from speech_rba.config import AsrAdapter
from speech_rba.data.audio import read_audio
from speech_rba.pretraining.natural_speech import NATURAL_ENGINE, speak
from speech_rba.synthesis import augment
from speech_rba.synthesis.voices import voices

MAX_CLIP_SAMPLES = 9 * augment.SAMPLE_RATE
VOICES_PER_TEXT = 2  # of the fast engines; each speaks a text once and is kept


@dataclass(frozen=True)
class SpeechPair:
    """A clean clip and its degraded copy (float32, 16 kHz mono), and the text of both; `rng` draws
    SpecAugment."""

    clean: np.ndarray
    degraded: np.ndarray
    text: str
    rng: np.random.Generator


@dataclass(frozen=True)
class Spoken:
    """Texts, the recordings in natural voices by the place of their text, the voices of the others, and
    background talkers."""

    texts: list[str]
    natural: dict[int, Path]
    allowed_voices: list[str]
    talkers: list[np.ndarray]


class SpeechPairs(Dataset):
    """One pair for each place of `order`, which are places in the texts."""

    def __init__(self, spoken: Spoken, order: list[int], settings: AsrAdapter):
        self.spoken, self.order, self.settings = spoken, order, settings
        self.fast_voices = [v for v in spoken.allowed_voices if not v.startswith(f"{NATURAL_ENGINE}-")]
        self.robotic_speech = functools.cache(self._robotic_speech)

    @property
    def transcripts(self) -> list[str]:
        """The text of each pair."""
        return [self.spoken.texts[place] for place in self.order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> SpeechPair:
        settings, place = self.settings, self.order[index]
        rng = np.random.default_rng([settings.seed, index])
        if place in self.spoken.natural:
            clean = read_audio(self.spoken.natural[place])
        else:
            clean = self.robotic_speech(place, int(rng.integers(VOICES_PER_TEXT)))
        clean = clean[:MAX_CLIP_SAMPLES]
        degraded = augment.augment_for_asr(clean, self.spoken.talkers, settings, rng)
        degraded = augment.at_level(degraded, augment.draw_between(settings.level_db, rng))[:MAX_CLIP_SAMPLES]
        return SpeechPair(clean, degraded, self.spoken.texts[place], rng)

    def _robotic_speech(self, place: int, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.settings.seed, place, number])
        voice = voices.draw_voice(self.fast_voices, rng)
        return speak(self.spoken.texts[place], voice, self.settings, rng)


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
