"""Reads audio files as mono samples at 16 kHz."""

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from speech_rba.errors import UserError

SAMPLE_RATE = 16_000  # Hz; the input of Whisper
RATES = (1_000, 768_000)  # Hz; other rates come from broken headers
BLOCK = 65_536  # frames decoded at once
MAX_PIPED = 2**30  # bytes
# Power of the channels' mean over the mean of their powers, below which they cancel each other: it is 1
# for equal channels and 0.5 for two uncorrelated ones.
CANCELLED = 0.01


class _Stream(soundfile.SoundFile):
    """A sound file that is read from start to end.

    soundfile seeks after each read where the file can seek, which fails for a FLAC without a length in its
    header.
    """

    def seekable(self) -> bool:
        return False


def read_audio(source: Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """float32 `(samples,)`, mono, 16 kHz; full scale is 1.

    WAV, FLAC, OGG and MP3 of any rate and number of channels are read, whatever the name of the file. Error
    messages contain `name`, or else the path.

    Raises:
        UserError: the source is missing, no file, empty, no audio, too large, without samples, or has samples
            that are not finite.
    """
    label = name or (shown(source) if isinstance(source, Path) else "the recording")
    try:
        audio, rate, size = _read(source)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"{label} is no readable audio file ({cause}); check its name") from error
    except soundfile.SoundFileError as error:
        cause = getattr(error, "error_string", str(error)).rstrip(".")
        raise UserError(f"{label} is no readable audio file ({cause}); give WAV, FLAC, OGG or MP3") from error
    except MemoryError as error:
        raise UserError(f"{label} holds more sound than the memory takes; cut it") from error
    if not size:
        raise UserError(f"{label} is no readable audio file (it is empty); record it again")
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{label} says that its rate is {rate} Hz; allowed are {RATES[0]} to {RATES[1]} Hz")
    audio = soxr.resample(audio, rate, SAMPLE_RATE)
    if not len(audio):
        raise UserError(f"{label} holds no sound: it has no samples, by its header; write it again")
    if not np.isfinite(audio).all():
        raise UserError(f"{label} holds samples that are NaN or infinite; write it again")
    return audio


def shown(path: Path) -> str:
    """The path as text, also where it is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read(source: Path | BinaryIO) -> tuple[np.ndarray, int, int]:
    """(mono samples, rate, size in bytes).

    libsndfile gets an open file: from a path it would take the format by the ending of the name.
    """
    if isinstance(source, Path):
        with open(source, "rb") as file:
            if not source.is_file():  # a pipe has no size, and libsndfile seeks back
                return _read(io.BytesIO(file.read(MAX_PIPED)))
            size = os.fstat(file.fileno()).st_size
            return *(_decode(file.fileno()) if size else (np.zeros(0), 0)), size
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return *(_decode(source) if size else (np.zeros(0), 0)), size


def _decode(file: int | BinaryIO) -> tuple[np.ndarray, int]:
    """(mono samples, rate).

    Read block by block: the number of samples in a header may exceed the real one, or the memory.
    """
    with _Stream(file, closefd=False) as stream:
        blocks_TC = [np.zeros((0, stream.channels), np.float32)]
        while len(block_TC := stream.read(BLOCK, dtype="float32", always_2d=True)):
            blocks_TC.append(block_TC)
        return _mono(np.concatenate(blocks_TC)), stream.samplerate


def _mono(audio_TC: np.ndarray) -> np.ndarray:
    """The mean of the channels, or the loudest channel where they cancel each other.

    They do when one of them is wired with reverse polarity.
    """
    mean = audio_TC.mean(axis=1)
    if audio_TC.shape[1] == 1 or not len(mean):
        return mean
    powers = np.square(audio_TC).mean(axis=0)
    return audio_TC[:, powers.argmax()] if np.square(mean).mean() < CANCELLED * powers.mean() else mean
