"""Speech in a named voice, whatever its engine.

A voice is named `<engine>-<the engine's name for it>`. Every engine gives the same samples for the same
arguments, in one thread. The voices of the packages are known here, those of an endpoint by params.yaml. An
engine is a module with `VOICES` (name -> Speaker) and `say(name, text, rate)`,
which gives float32 samples `(N,)` and their sampling rate.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import soxr

from speech_rba.config import Voice
from speech_rba.errors import UserError
from speech_rba.synthesis.augment import SAMPLE_RATE
from speech_rba.synthesis.disfluency import PAUSE
from speech_rba.synthesis.voices import endpoint, espeak, hibari, kokoro, piper
from speech_rba.synthesis.voices.speaker import Speaker

ENGINES: dict[str, ModuleType] = {
    "hibari": hibari, "piper": piper, "espeak": espeak, "kokoro": kokoro, "endpoint": endpoint,
}  # fmt: skip
VOICES: dict[str, Speaker] = {
    f"{engine}-{name}": speaker
    for engine, module in ENGINES.items()
    for name, speaker in module.VOICES.items()
}
TOPICS_PER_TALKER = 8
SLOW_ENGINES = ("kokoro", "endpoint")  # at least 60 times slower than the others: none is in a background
SILENCE_S = 0.3  # around speech: Whisper loses the first words of speech that starts with the recording
HESITATION_S = 0.7


def speakers(voice: Voice) -> dict[str, Speaker]:
    """The speaker of every voice that clips may have: those of the packages and of the endpoint."""
    remote = {name: Speaker(facts.gender, facts.accent) for name, facts in voice.endpoint_voices.items()}
    return VOICES | remote


def of_packages(names: list[str]) -> list[str]:
    """Those of `names` that need no endpoint: the frozen adapters are trained in these alone."""
    return [name for name in names if name in VOICES]


def training_voices(voice: Voice) -> list[str]:
    """Every voice that is not held out for validation or test.

    Raises:
        UserError: there is no such voice, one is held out for both, or none is left or kept out.
    """
    validation, test = voice.validation_voices, voice.heldout_voices
    known = speakers(voice)
    if unknown := sorted({*validation, *test} - set(known)):
        raise UserError(f"voice names {', '.join(unknown)} to hold out; choose some of {', '.join(known)}")
    if both := sorted({*validation} & {*test}):
        raise UserError(
            f"{', '.join(both)}: keep it in one of voice.validation_voices and voice.heldout_voices"
        )
    training = [name for name in known if name not in validation + test]
    if not (training and validation and test):
        raise UserError(
            "voice.validation_voices and heldout_voices must each keep out at least one voice, not all"
        )
    return training


def draw_voice(allowed: list[str], rng: np.random.Generator) -> str:
    """One of `allowed`; each engine is equally likely, though hibari and Piper have one voice each.

    On 48 questions the WER of Whisper tiny.en is 1 % (hibari), 5 % (Piper) and 16 to 29 % (espeak-ng).
    """
    engine = rng.choice(sorted({name.partition("-")[0] for name in allowed}))
    return str(rng.choice([name for name in allowed if name.startswith(f"{engine}-")]))


def speak(voice: str, text: str, rate: float, pitch_semitones: float) -> np.ndarray:
    """`text` in `voice`, float32 `(N,)` at 16 kHz; `(0,)` when the text holds no word for the engine.

    Resampling moves the pitch. It moves the formants too, as in a smaller or larger speaker, and the engine's
    rate makes up for the time.

    Raises:
        UserError: there is no such voice, or the endpoint does not speak.
    """
    engine, _, name = voice.partition("-")
    if voice not in VOICES and engine != "endpoint":
        raise UserError(f"no voice {voice!r}; choose one of {', '.join(VOICES)}")
    factor = 2 ** (pitch_semitones / 12)
    audio, sampling_rate = ENGINES[engine].say(name, text, rate / factor)
    return soxr.resample(audio, sampling_rate * factor, SAMPLE_RATE) if len(audio) else audio


def say(voice: str, text: str, rate: float, pitch_semitones: float) -> np.ndarray:
    """A recording of `text`, which may hold pauses (see disfluency.py): float32 `(N,)` with silence around
    it."""
    parts = [speak(voice, part.strip(), rate, pitch_semitones) for part in text.split(PAUSE)]
    pause = np.zeros(round(HESITATION_S * SAMPLE_RATE), np.float32)
    joined = [piece for part in parts for piece in (pause, part)][1:]
    return np.pad(np.concatenate(joined), round(SILENCE_S * SAMPLE_RATE))


def plan_talkers(voice: Voice, data: Path) -> list[tuple[str, str]]:
    """The voice and the text of every background talker: each training voice of a fast engine reads a few
    topics.

    Raises:
        UserError: there are no topics.
    """
    topics = (data / "topics.txt").read_text(encoding="utf-8").split("\n")
    topics = [topic for topic in topics if topic.strip()]
    if not topics:
        raise UserError(
            f"{data / 'topics.txt'} is empty; write the topics that background talkers read, one a line"
        )
    names = [name for name in training_voices(voice) if name.partition("-")[0] not in SLOW_ENGINES]
    starts = (TOPICS_PER_TALKER * i for i in range(len(names)))
    texts = (" and ".join(topics[(s + k) % len(topics)] for k in range(TOPICS_PER_TALKER)) for s in starts)
    return list(zip(names, texts, strict=True))


@cache
def talk(voice: str, text: str) -> np.ndarray:
    """The speech of one background talker, synthesized once a process."""
    return speak(voice, text, rate=1.0, pitch_semitones=0.0)
