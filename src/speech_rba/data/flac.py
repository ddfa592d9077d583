"""Writes clips as FLAC files."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import soundfile

from speech_rba.data.audio import SAMPLE_RATE


def write_flac(file: Path, audio: np.ndarray) -> str:
    """The sha256 of `file`, which now holds the mono samples at 16 kHz in 16 bits, whole or not at all."""
    encoded = io.BytesIO()  # libsndfile reports no error when the disk is full
    soundfile.write(encoded, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(encoded.getbuffer())
    os.replace(partial, file)
    return hashlib.sha256(encoded.getbuffer()).hexdigest()
