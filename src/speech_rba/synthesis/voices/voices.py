"""The voices: the neural engines hibari and Piper, and espeak-ng with its accents and variants. One thread.

A voice is named `<engine>-<the engine's own name>`. Every engine gives the same samples for the same arguments.
"""

from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soxr

from speech_rba.assets.resolve import resolve
from speech_rba.config import Voice
from speech_rba.errors import UserError
from speech_rba.synthesis.augment import SAMPLE_RATE
from speech_rba.synthesis.disfluency import PAUSE
from speech_rba.synthesis.voices import espeak, piper

TOPICS_PER_TALKER = 8
SILENCE_S = 0.3  # around speech: Whisper loses the first words of speech that starts with the recording
HESITATION_S = 0.7


class Speaker(NamedTuple):
    """Whom a voice sounds like."""

    gender: Literal["woman", "man"]
    accent: Literal["American", "British", "Scottish", "Caribbean"]


# Left out: en-029+f1 and en-gb-x-gbcwmd+m3, of which Whisper tiny.en gets 90 % and 64 % of the words wrong.
VOICES = {
    "hibari-heart": Speaker("woman", "American"),
    "piper-joe": Speaker("man", "American"),
    "espeak-en-us": Speaker("man", "American"),
    "espeak-en-us+f3": Speaker("woman", "American"),
    "espeak-en-us+f2": Speaker("woman", "American"),
    "espeak-en-us+f5": Speaker("woman", "American"),
    "espeak-en-us+belinda": Speaker("woman", "American"),
    "espeak-en-us+klatt2": Speaker("man", "American"),
    "espeak-en-us+m3": Speaker("man", "American"),
    "espeak-en-us+m7": Speaker("man", "American"),
    "espeak-en-us+Annie": Speaker("woman", "American"),
    "espeak-en-us+klatt4": Speaker("man", "American"),
    "espeak-en-us-nyc": Speaker("man", "American"),
    "espeak-en-us-nyc+f4": Speaker("woman", "American"),
    "espeak-en-us-nyc+m2": Speaker("man", "American"),
    "espeak-en": Speaker("man", "British"),
    "espeak-en+steph": Speaker("woman", "British"),
    "espeak-en+f1": Speaker("woman", "British"),
    "espeak-en+m5": Speaker("man", "British"),
    "espeak-en-gb-scotland": Speaker("man", "Scottish"),
    "espeak-en-gb-scotland+f3": Speaker("woman", "Scottish"),
    "espeak-en-gb-scotland+m4": Speaker("man", "Scottish"),
    "espeak-en-gb-x-rp": Speaker("man", "British"),
    "espeak-en-gb-x-rp+f2": Speaker("woman", "British"),
    "espeak-en-gb-x-rp+m3": Speaker("man", "British"),
    "espeak-en-gb-x-gbclan": Speaker("man", "British"),
    "espeak-en-gb-x-gbclan+f5": Speaker("woman", "British"),
    "espeak-en-gb-x-gbclan+m6": Speaker("man", "British"),
    "espeak-en-029": Speaker("man", "Caribbean"),
    "espeak-en-029+m2": Speaker("man", "Caribbean"),
}


def training_voices(voice: Voice) -> list[str]:
    """Every voice that is not held out for validation or test.

    Raises:
        UserError: there is no such voice, one is held out for both, or none is left or kept out.
    """
    validation, test = voice.validation_voices, voice.heldout_voices
    if unknown := sorted({*validation, *test} - set(VOICES)):
        raise UserError(f"voice names {', '.join(unknown)} to hold out; choose some of {', '.join(VOICES)}")
    if both := sorted({*validation} & {*test}):
        raise UserError(
            f"{', '.join(both)} must stand in one of voice.validation_voices and voice.heldout_voices"
        )
    training = [name for name in VOICES if name not in validation + test]
    if not (training and validation and test):
        raise UserError(
            "voice.validation_voices and heldout_voices must each keep out at least one voice, not all"
        )
    return training


def draw_voice(allowed: list[str], rng: np.random.Generator) -> str:
    """One of `allowed`; the engines speak equally often, though the neural ones have a voice each.

    Of 48 questions Whisper tiny.en gets 1 % (hibari) and 5 % (Piper) of the words wrong, and 16 to 29 % of espeak's.
    """
    engine = rng.choice(sorted({name.partition("-")[0] for name in allowed}))
    return str(rng.choice([name for name in allowed if name.startswith(f"{engine}-")]))


def speak(voice: str, text: str, rate: float, pitch_semitones: float) -> np.ndarray:
    """`text` in `voice`, float32 `(N,)` at 16 kHz; `(0,)` when the engine finds nothing to say.

    The pitch moves by playing the samples faster or slower, which moves the formants too, as in a smaller or
    larger speaker; the engine's speed makes up for the time. hibari rounds every sound to whole frames and
    so follows `rate` only roughly.

    Raises:
        UserError: there is no such voice.
    """
    if voice not in VOICES:
        raise UserError(f"no voice {voice!r}; choose one of {', '.join(VOICES)}")
    engine, _, name = voice.partition("-")
    factor = 2 ** (pitch_semitones / 12)
    say = {"hibari": _say_hibari, "piper": piper.say, "espeak": espeak.say}[engine]
    audio, sampling_rate = say(name, text, rate / factor)
    return soxr.resample(audio, sampling_rate * factor, SAMPLE_RATE) if len(audio) else audio


def say(voice: str, text: str, rate: float, pitch_semitones: float) -> np.ndarray:
    """A recording of `text`, which may hold pauses (see disfluency.py): float32 `(N,)` with silence around it."""
    parts = [speak(voice, part.strip(), rate, pitch_semitones) for part in text.split(PAUSE)]
    pause = np.zeros(round(HESITATION_S * SAMPLE_RATE), np.float32)
    joined = [piece for part in parts for piece in (pause, part)][1:]
    return np.pad(np.concatenate(joined), round(SILENCE_S * SAMPLE_RATE))


def plan_talkers(voice: Voice, data: Path) -> list[tuple[str, str]]:
    """Voice and text of everyone who can be in the background: each training voice reads out topics.

    Raises:
        UserError: there are no topics.
    """
    topics = [
        topic for topic in (data / "topics.txt").read_text(encoding="utf-8").split("\n") if topic.strip()
    ]
    if not topics:
        raise UserError(f"{data / 'topics.txt'} is empty; babble reads topics from it, one a line")
    names = training_voices(voice)
    starts = (TOPICS_PER_TALKER * i for i in range(len(names)))
    texts = (" and ".join(topics[(s + k) % len(topics)] for k in range(TOPICS_PER_TALKER)) for s in starts)
    return list(zip(names, texts, strict=True))


@cache
def talk(voice: str, text: str) -> np.ndarray:
    """One talker of the background, spoken once a process."""
    return speak(voice, text, rate=1.0, pitch_semitones=0.0)


@cache
def _hibari():
    from hibari import Hibari

    return Hibari(model=str(resolve("pypi:hibari-tts") / "hibari.onnx"), threads=1)


def _say_hibari(name: str, text: str, speed: float) -> tuple[np.ndarray, int]:
    assert name == "heart", "the only voice in the package: others would be downloaded"
    return _hibari()(text, speed=speed, seed=0), _hibari().sample_rate
