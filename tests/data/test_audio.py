import io
import os
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from scipy.signal import correlate

from speech_rba.data.audio import read_audio
from speech_rba.errors import UserError

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)


def speech_like(seconds: float) -> np.ndarray:
    """Noise of a voice's band whose level rises and falls, float32 at 16 kHz."""
    rng, count = np.random.default_rng(0), round(16_000 * seconds)
    spectrum = np.fft.rfft(rng.normal(0, 1, count))
    hertz = np.fft.rfftfreq(count, 1 / 16_000)
    noise = np.fft.irfft(spectrum * ((hertz > 300) & (hertz < 2_500)), count)
    return (0.2 * noise * (1 + np.sin(2 * np.pi * 3 * np.arange(count) / 16_000))).astype(np.float32)


SPEECH = speech_like(2)


def write(path: Path, codec: str, rate: int, samples_TC: np.ndarray, **options) -> None:
    """Writes samples at 16 kHz by FFmpeg, with this codec and rate, in the kind that the name says."""
    resampled_TC = soxr.resample(samples_TC, 16_000, rate)
    with av.open(str(path), "w", **options) as container:
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples_TC.shape[1]]
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec in ("aac", "wmav2", "libmp3lame"):
            stream.bit_rate = 64_000 if rate == 8_000 else 128_000
        interleaved = np.ascontiguousarray(resampled_TC.reshape(1, -1), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def likeness(audio: np.ndarray, original: np.ndarray) -> float:
    """The greatest correlation of two recordings over all shifts."""
    products = correlate(audio - audio.mean(), original - original.mean(), method="fft")
    return products.max() / (len(original) ** 0.5 * original.std() * len(audio) ** 0.5 * audio.std())


WIDTHS = ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"]
KINDS = [  # name, codec, rate
    *((f"{codec}.wav", codec, 16_000) for codec in [*WIDTHS, "adpcm_ms", "adpcm_ima_wav"]),
    *((f"{rate}.wav", "pcm_s16le", rate) for rate in (8_000, 11_025, 22_050, 44_100, 48_000, 96_000)),
    ("a.w64", "pcm_s16le", 44_100),
    ("a.aiff", "pcm_s16be", 44_100),
    ("a.au", "pcm_s16be", 8_000),
    ("a.caf", "pcm_s16le", 48_000),
    ("a.flac", "flac", 48_000),
    ("a.opus", "libopus", 48_000),
    ("a.webm", "libopus", 48_000),
    ("a.mkv", "pcm_s16le", 48_000),
    ("a.mp3", "libmp3lame", 44_100),
    ("low.mp3", "libmp3lame", 8_000),
    ("a.m4a", "aac", 44_100),
    ("a.mov", "alac", 44_100),
    ("a.mp4", "aac", 48_000),
    ("a.aac", "aac", 48_000),
    ("a.avi", "libmp3lame", 44_100),
    ("a.wma", "wmav2", 44_100),
    ("a.flv", "aac", 44_100),
    ("a.ts", "aac", 48_000),
    ("a.ac3", "ac3", 48_000),
    ("a.wv", "wavpack", 44_100),
    ("a.amr", "libopencore_amrnb", 8_000),
]


@pytest.mark.parametrize(("name", "codec", "rate"), KINDS, ids=[f"{n}-{c}" for n, c, _ in KINDS])
def test_what_a_person_records_becomes_mono_16_khz(tmp_path, capfd, name, codec, rate):
    write(tmp_path / name, codec, rate, SPEECH[:, None])
    for source in (tmp_path / name, io.BytesIO((tmp_path / name).read_bytes())):
        audio = read_audio(source)
        assert audio.dtype == np.float32 and audio.ndim == 1
        assert abs(len(audio) - len(SPEECH)) < 2_000  # some codecs add silence
        assert likeness(audio, SPEECH) > (0.4 if name == "a.amr" else 0.95)  # a codec of voices
        assert audio.std() == pytest.approx(SPEECH.std(), rel=0.1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("RF64", "PCM_16"), ("WAVEX", "PCM_24"), ("OGG", "VORBIS"), ("WAV", "GSM610"), ("VOC", "PCM_16")],
)
def test_what_other_programs_write_is_read(kind, subtype):
    soundfile.write(file := io.BytesIO(), SPEECH, 16_000, format=kind, subtype=subtype)
    audio = read_audio(file)
    assert abs(len(audio) - len(SPEECH)) < 500 and likeness(audio, SPEECH) > 0.97


def test_the_sound_of_a_video_is_read(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=16_000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(SPEECH[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*sound.encode(frame), *sound.encode(None)])
    assert likeness(read_audio(tmp_path / "a.mp4"), SPEECH) > 0.97
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.mux([*video.encode(picture), *video.encode(None)])
    with pytest.raises(UserError, match=r"silent\.mp4 has no sound track; give WAV"):
        read_audio(tmp_path / "silent.mp4")


def test_lossless_samples_are_kept_to_the_last_bit(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, (9_999, 1))
    for subtype, name in [
        ("PCM_16", "a.flac"),
        ("PCM_24", "a.flac"),
        ("PCM_16", "a.wav"),
        ("FLOAT", "a.wav"),
    ]:
        soundfile.write(tmp_path / name, noise, 16_000, subtype=subtype)
        whole, _ = soundfile.read(tmp_path / name, dtype="float32")
        assert np.array_equal(read_audio(tmp_path / name), whole)


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
