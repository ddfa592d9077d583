import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.data import audio
from speech_rba.data.audio import read_audio

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_any_rate_and_format_becomes_mono_16_khz(tmp_path, name, rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(tmp_path / name, np.stack([tone, np.zeros(rate)], axis=1), rate)
    audio = read_audio(tmp_path / name)
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert abs(len(audio) - 16000) <= 1
    assert np.abs(np.fft.rfft(audio)).argmax() == pytest.approx(440, abs=1)  # one second: bins are 1 Hz
    assert np.abs(audio[1000:-1000]).max() == pytest.approx(0.25, abs=0.03)  # the mean of tone and silence


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_reading_in_blocks_gives_the_samples_of_one_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(audio, "BLOCK", 1000)
    noise = np.random.default_rng(0).normal(0, 0.1, (9_999, 2))
    soundfile.write(tmp_path / name, noise, 16_000)
    whole, _ = soundfile.read(tmp_path / name, dtype="float32")
    for source in (tmp_path / name, io.BytesIO((tmp_path / name).read_bytes())):
        assert np.abs(read_audio(source) - whole.mean(axis=1)).max() < 1e-7


@pytest.mark.parametrize("name", [b"tone.raw", b"t\xf6ne.wav", b"tone", "tö ne.txt".encode()])
def test_a_file_may_have_any_name(tmp_path, name):
    """soundfile takes `.raw` for headless samples, and a name for UTF-8."""
    soundfile.write(tmp_path / "tone.wav", TONE, 16_000)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    (tmp_path / "tone.wav").rename(path)
    assert np.abs(read_audio(path) - TONE).max() < 1e-4


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_audio_can_be_read_from_a_pipe(tmp_path, kind):
    soundfile.write(tmp_path / f"tone.{kind}", TONE, 16_000)
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / f"tone.{kind}").read_bytes()), daemon=True
    ).start()
    assert np.abs(read_audio(tmp_path / "pipe") - TONE).max() < 1e-4


def test_channels_that_cancel_each_other_do_not_give_silence(tmp_path):
    for right, expected in (
        (-TONE, TONE),
        (-0.9 * TONE, TONE),
        (np.zeros_like(TONE), TONE / 2),
        (TONE, TONE),
    ):
        soundfile.write(tmp_path / "a.wav", np.column_stack([TONE, right]), 16_000, subtype="FLOAT")
        assert np.allclose(read_audio(tmp_path / "a.wav"), expected, atol=1e-6)


def test_flac_without_a_length_in_its_header_is_read(tmp_path):
    """The 36 bits of STREAMINFO's number of samples (RFC 9639, 8.2) end at byte 26; 0 is unknown."""
    soundfile.write(tmp_path / "a.flac", TONE, 16_000)
    stream = bytearray((tmp_path / "a.flac").read_bytes())
    assert int.from_bytes(stream[21:26]) & 0xFFFFFFFFF == 16_000
    for length in (0, 2**36 - 1):
        stream[21:26] = (int.from_bytes(stream[21:26]) >> 36 << 36 | length).to_bytes(5)
        (tmp_path / "a.flac").write_bytes(stream)
        assert np.abs(read_audio(tmp_path / "a.flac") - TONE).max() < 1e-4


def wav(rate: int, size: int, samples: bytes) -> bytes:
    """A PCM file whose header says `size` bytes of samples."""
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    head = struct.pack("<4sI4s4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16)
    return head + form + struct.pack("<4sI", b"data", size) + samples


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is empty"),
        (b"no sound", "Format not recognised"),
        (wav(16_000, 0, b"\1\2" * 1600), "holds no sound: it has no samples, by its header"),
        (wav(1, 3200, b"\1\2" * 1600), "says that its rate is 1 Hz; allowed are 1000 to 768000 Hz"),
        (wav(2**31 - 1, 3200, b"\1\2" * 1600), "says that its rate is 2147483647 Hz"),
    ],
)
def test_a_file_that_is_no_audio_is_named_in_one_line_with_the_cause(tmp_path, content, cause):
    path = tmp_path / "question.wav"
    path.write_bytes(content)
    for source, name, called in ((path, None, path), (io.BytesIO(content), "row 7", "row 7")):
        with pytest.raises(ValueError, match=cause) as raised:
            read_audio(source, name)
        assert str(raised.value).startswith(f"{called} ") and "\n" not in str(raised.value)


def test_a_header_with_too_many_samples_gives_the_real_ones(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(16_000, 2**32 - 40, b"\0\1" * 1600))
    assert read_audio(tmp_path / "a.wav").tolist() == [256 / 32768] * 1600


def test_errors_call_bytes_without_a_name_the_recording():
    with pytest.raises(ValueError, match=r"^the recording is no readable audio file"):
        read_audio(io.BytesIO(b"no sound"))


def test_a_path_that_is_no_file_is_named_with_the_cause(tmp_path):
    for path, cause in [
        (tmp_path / "missing.flac", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b.wav", "null byte"),
        (tmp_path / ("a" * 300), "File name too long"),
        (Path(os.fsdecode(b"missing-\xff.wav")), "No such file"),
    ]:
        with pytest.raises(ValueError, match=cause) as raised:
            read_audio(path)
        assert str(raised.value).encode()  # it can be printed


def test_a_recording_larger_than_the_memory_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    soundfile.write(tmp_path / "day.wav", TONE, 16_000)
    monkeypatch.setattr(np, "concatenate", full)
    with pytest.raises(ValueError, match=r"day\.wav holds more sound than the memory takes; cut it"):
        read_audio(tmp_path / "day.wav")


def test_empty_recordings_and_samples_that_are_not_finite_are_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 44100)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="no samples"):
        read_audio(tmp_path / "empty.wav")
    with pytest.raises(ValueError, match="NaN"):
        read_audio(tmp_path / "nan.wav")
