"""Audio files in, samples out."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from speech_rba.errors import UserError

SAMPLE_RATE = 16_000  # what Whisper hears


def read_audio(path: Path | BinaryIO) -> np.ndarray:
    """The file's sound as float32 `(samples,)`, mono, 16 kHz; full scale is 1.

    WAV, FLAC and OGG are read, of any rate and number of channels.

    Raises:
        UserError: the file is missing, no audio, without a sample, or holds NaN or infinity.
    """
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UserError(f"{path} is no readable audio file ({error}); give WAV, FLAC or OGG") from error
    audio = soxr.resample(audio.mean(axis=1), rate, SAMPLE_RATE)
    if not len(audio):
        raise UserError(f"{path} holds no sound: it has no samples")
    if not np.isfinite(audio).all():
        raise UserError(f"{path} holds samples that are NaN or infinite; write it again")
    return audio
