"""The recordings of a suite: their files, and whether they contain speech of an allowed length."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speech_rba.data.audio import MAX_MINUTES, SAMPLE_RATE, read_audio
from speech_rba.errors import UserError
from speech_rba.records import Question
from speech_rba.suites.cells import BadRow

MIN_S, MAX_S = 0.1, 60.0 * MAX_MINUTES  # no word is shorter
SILENCE_DB = -60.0  # RMS relative to full scale, below which a recording is silent unless parts stand out
STANDS_OUT_DB = 6.0  # loud over quiet 50 ms frames; below 1 in stationary noise, above 20 in speech


@dataclass(frozen=True)
class Recording:
    """A question and its sound: a file, the bytes of one, or None where the question is to be synthesized.

    The question has no target where the recording is only to be transcribed.
    """

    question: Question
    sound: Path | bytes | None
    name: str  # for error messages
    speaker: str = ""  # empty where the table names none

    def read(self) -> np.ndarray:
        """float32 `(samples,)`, 16 kHz."""
        assert self.sound is not None
        return read_audio(io.BytesIO(self.sound) if isinstance(self.sound, bytes) else self.sound, self.name)


def file_inside(folder: Path, name: str, places: list[str]) -> tuple[Path, str]:
    """The file `name` in the first of `places` that has it, and its path relative to the folder.

    Raises:
        BadRow: there is none, or it lies outside the folder.
    """
    if not name:
        raise BadRow("the file is missing")
    candidates = [place + name for place in places]
    try:
        inside = [path for path in candidates if (folder / path).resolve().is_relative_to(folder.resolve())]
        existing = next((path for path in inside if (folder / path).is_file()), None)
    except (OSError, ValueError) as error:
        raise BadRow(f"{name!r:.80} is no name of a file ({error})") from error
    if existing is None and inside != candidates:
        raise BadRow(f"the file {name} lies outside the folder; allowed are files inside it")
    if existing is None:
        raise BadRow(f"the file {name} is not there")
    return folder / existing, existing


def check_sound(recording: Recording) -> None:
    """The recording can be decoded, is not silent, and has an allowed length.

    Raises:
        BadRow: it has not.
    """
    try:
        audio = recording.read()
    except UserError as error:
        raise BadRow(str(error)) from error
    duration_s = len(audio) / SAMPLE_RATE
    if not MIN_S <= duration_s <= MAX_S:
        raise BadRow(f"the recording has {duration_s:.2f} s; allowed are {MIN_S:g} to {MAX_S:g} s")
    if silent(audio):
        raise BadRow(f"the recording is silent: even, and below {SILENCE_DB:g} dB of full scale")


def silent(audio: np.ndarray) -> bool:
    """Whether `(samples,)`, at least 50 ms, has only zeros, a click or faint noise.

    In quiet speech some frames are much louder than others.
    """
    frame = SAMPLE_RATE // 20
    powers = np.square(audio[: len(audio) // frame * frame].astype(float)).reshape(-1, frame).mean(axis=1)
    quiet, loud = 10 * np.log10(np.percentile(powers, [20, 90]) + 1e-18)
    return bool(10 * np.log10(powers.mean() + 1e-18) < SILENCE_DB and loud - quiet < STANDS_OUT_DB)
