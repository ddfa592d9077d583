"""Reads recordings of any kind as mono samples at 16 kHz."""

import io
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soxr

from speech_rba.errors import UserError

SAMPLE_RATE = 16_000  # Hz; the input of Whisper
RATES = (1_000, 768_000)  # Hz; other rates come from broken headers
MAX_MINUTES = 30
MAX_PIPED = 2**30  # bytes
KINDS = "WAV, FLAC, MP3, M4A, OGG, Opus, WebM, AIFF or a video with sound"
# FFmpeg's readers of files that carry their own sound. Left out are playlists and descriptions (hls, concat,
# dash, sdp), which name other files or addresses, devices, pictures, and headless samples.
READERS = (
    "wav,w64,aiff,au,caf,voc,flac,wv,tta,ogg,mp3,aac,ac3,eac3,amr,mov,matroska,avi,asf,flv,mpegts,mpeg,ivf"
)
OPTIONS = {"format_whitelist": READERS, "protocol_whitelist": "none"}  # no reader opens anything else
STATE_THEIR_LENGTH = {"wav", "w64", "aiff", "au", "caf", "flac", "mov"}  # in others it may be an estimate
CUT_OFF_S = 0.25  # a header that states so much more than there is belongs to a file that is cut off
# Power of the channels' mean over the mean of their powers, below which they cancel each other: it is 1
# for equal channels and 0.5 for two uncorrelated ones.
CANCELLED = 0.01
SILENT_CHANNEL = 1e-4  # power over that of the loudest channel, -40 dB: an unused input has only hiss
OFFSET = 0.01  # the share of a constant in a channel's power, above which it is an offset of the recorder


def read_audio(source: Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """float32 `(samples,)`, mono, 16 kHz; full scale is 1.

    All kinds that FFmpeg reads from one file are read, whatever the name of the file, its rate and its number
    of channels; of a video the sound. What a header says of the length is not trusted. A file that is cut off
    or damaged gives what is there, with a notice on stderr. Messages contain `name`, or else the path.

    Raises:
        UserError: the source is missing, no file, empty, no audio, longer than 30 minutes, without samples,
            or has samples that are not finite.
    """
    label = name or (shown(source) if isinstance(source, Path) else "the recording")
    try:
        with _opened(source) as file:
            if not file.read(1):
                raise UserError(f"{label} is no readable audio file (it is empty); record it again")
            file.seek(0)
            audio = _decode(file, label)
    except av.FFmpegError as error:
        raise UserError(f"{label} is no readable audio file; give {KINDS}") from error
    except UserError:  # a ValueError too
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"{label} is no readable audio file ({cause}); check its name") from error
    except MemoryError as error:
        raise UserError(f"{label} holds more sound than the memory takes; cut it") from error
    if not len(audio):
        raise UserError(f"{label} holds no sound: it has no samples; record it again")
    if not np.isfinite(audio).all():
        raise UserError(f"{label} holds samples that are NaN or infinite; write it again")
    return audio


def shown(path: Path) -> str:
    """The path as text, also where it is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """The file, at its start. FFmpeg gets no name, so that it opens nothing and judges by the content."""
    if not isinstance(source, Path):
        source.seek(0)
        yield source
        return
    with open(source, "rb") as file:  # a pipe cannot seek
        yield file if file.seekable() else io.BytesIO(file.read(MAX_PIPED))


def _decode(file: BinaryIO, label: str) -> np.ndarray:
    """The recording as mono samples at 16 kHz, with a notice on stderr for what is missing."""
    av.logging.set_level(None)  # else FFmpeg writes to stderr
    with av.open(file, mode="r", options=OPTIONS) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            raise UserError(f"{label} has no sound track; give {KINDS}")
        stated_s = _stated_s(container, stream, file)
        broken: list[av.FFmpegError] = []
        audio = _mono_16_khz(_frames(container, stream, broken), label)
    if broken and not len(audio):
        raise broken[0]
    if stated_s - len(audio) / SAMPLE_RATE > CUT_OFF_S:
        there = f"its header says {stated_s:.1f} s, {len(audio) / SAMPLE_RATE:.1f} s are there"
        print(f"notice: {label} is cut off: {there}", file=sys.stderr)
    elif broken:
        print(f"notice: {label} is damaged: {len(broken)} parts of it are left out", file=sys.stderr)
    return audio


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream, broken: list[av.FFmpegError]
) -> Iterator[av.AudioFrame]:
    """The frames that can be decoded; the errors of the others are added to `broken`."""
    packets = container.demux(stream)
    while True:
        try:
            yield from next(packets).decode()
        except StopIteration:
            return
        except av.EOFError:
            return
        except av.FFmpegError as error:
            broken.append(error)


def _mono_16_khz(frames: Iterator[av.AudioFrame], label: str) -> np.ndarray:
    """The frames as mono samples at 16 kHz. In a few files rate and channels change on the way."""
    parts, length = [np.zeros(0, np.float32)], 0
    for (rate, channels), group in itertools.groupby(
        frames, lambda frame: (frame.sample_rate, frame.layout.nb_channels)
    ):
        if not RATES[0] <= rate <= RATES[1]:
            raise UserError(
                f"{label} says that its rate is {rate} Hz; allowed are {RATES[0]} to {RATES[1]} Hz"
            )
        blocks_TC = []
        for block_TC in _resampled(group, rate, channels):
            blocks_TC.append(block_TC)
            length += len(block_TC)
            if length > MAX_MINUTES * 60 * SAMPLE_RATE:
                raise UserError(f"{label} is longer than {MAX_MINUTES} minutes; cut it")
        parts.append(_mono(np.concatenate(blocks_TC)))
    return np.concatenate(parts)


def _resampled(frames: Iterator[av.AudioFrame], rate: int, channels: int) -> Iterator[np.ndarray]:
    """Blocks `(samples, channels)`, float32, at 16 kHz."""
    if rate == SAMPLE_RATE:
        yield from map(_samples, frames)
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32")
    for frame in frames:
        yield resampler.resample_chunk(_samples(frame)).reshape(-1, channels)
    yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels)


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """float32 `(samples, channels)`; full scale is 1."""
    array = frame.to_ndarray()
    array_TC = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if array.dtype.kind == "f":
        return array_TC.astype(np.float32)
    if array.dtype == np.uint8:
        return (array_TC.astype(np.float32) - 128) / 128
    return array_TC.astype(np.float32) / 2.0 ** (8 * array.dtype.itemsize - 1)


def _mono(audio_TC: np.ndarray) -> np.ndarray:
    """The mean of the channels in use, or the loudest of them where they cancel each other, without offset.

    They cancel each other when one of them is wired with reverse polarity.
    """
    if not len(audio_TC):
        return np.zeros(0, np.float32)
    offsets = audio_TC.mean(axis=0, dtype=np.float64)
    powers = np.einsum("tc,tc->c", audio_TC, audio_TC, dtype=np.float64) / len(audio_TC)
    offsets[np.square(offsets) < OFFSET * powers] = 0
    powers = np.maximum(powers - np.square(offsets), 0)
    used = ~(powers < SILENT_CHANNEL * powers.max())  # all, where samples are NaN
    mean = audio_TC[:, used].mean(axis=1) - np.float32(offsets[used].mean())
    if np.square(mean).mean() >= CANCELLED * powers[used].mean():
        return mean
    loudest = powers.argmax()
    return audio_TC[:, loudest] - np.float32(offsets[loudest])


def _stated_s(container: av.container.InputContainer, stream: av.AudioStream, file: BinaryIO) -> float:
    """The length by the header in seconds; 0 where it states none, or as a stream's one that cannot be."""
    if not STATE_THEIR_LENGTH & set(container.format.name.split(",")):
        return 0
    stated_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if container.format.name == "wav" and stream.codec_context.bit_rate:
        # FFmpeg gives the length of the file where the header's is longer
        stated_s = max(stated_s, _wav_bytes(file) * 8 / stream.codec_context.bit_rate)
    return stated_s if stated_s <= MAX_MINUTES * 60 else 0


def _wav_bytes(file: BinaryIO) -> int:
    """The number of bytes of samples by the header of a RIFF file; 0 where it states none."""
    place = file.tell()
    try:
        file.seek(0)
        if file.read(12)[:4] != b"RIFF":
            return 0  # the sizes of RF64 stand elsewhere, and FFmpeg believes them
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return size
            file.seek(size + size % 2, os.SEEK_CUR)
        return 0
    finally:
        file.seek(place)
