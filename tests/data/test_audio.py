import http.server
import io
import os
import re
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
]


@pytest.mark.parametrize(("name", "codec", "rate"), KINDS, ids=[f"{n}-{c}" for n, c, _ in KINDS])
def test_what_a_person_records_becomes_mono_16_khz(tmp_path, capfd, name, codec, rate):
    write(tmp_path / name, codec, rate, SPEECH[:, None])
    for source in (tmp_path / name, io.BytesIO((tmp_path / name).read_bytes())):
        audio = read_audio(source)
        assert audio.dtype == np.float32 and audio.ndim == 1
        assert abs(len(audio) - len(SPEECH)) < 2_000  # some codecs add silence
        assert likeness(audio, SPEECH) > 0.95
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


def test_a_recording_of_a_telephone_is_read(tmp_path):
    """Its codec keeps the course of a voice and not the samples."""
    write(tmp_path / "a.amr", "libopencore_amrnb", 8_000, SPEECH[:, None])
    assert likeness(read_audio(tmp_path / "a.amr"), SPEECH) > 0.4


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
    soundfile.write(tmp_path / "tone.wav", TONE, 16_000)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    (tmp_path / "tone.wav").rename(path)
    assert np.abs(read_audio(path) - TONE).max() < 1e-4


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_audio_can_be_read_from_a_pipe(tmp_path, kind):
    soundfile.write(tmp_path / f"speech.{kind}", SPEECH, 16_000)
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / f"speech.{kind}").read_bytes()
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content), daemon=True).start()
    assert likeness(read_audio(tmp_path / "pipe"), SPEECH) > 0.97


def test_a_browser_streams_webm_without_a_length(tmp_path):
    """To a file that cannot seek FFmpeg writes as a browser's MediaRecorder does."""

    class Stream:
        def __init__(self):
            self.content = b""

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    stream = Stream()
    with av.open(stream, "w", format="webm") as container:
        opus = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            soxr.resample(SPEECH, 16_000, 48_000)[None], format="flt", layout="mono"
        )
        frame.sample_rate = 48_000
        container.mux([*opus.encode(frame), *opus.encode(None)])
    with av.open(io.BytesIO(stream.content)) as container:
        assert container.duration is None
    assert likeness(read_audio(io.BytesIO(stream.content)), SPEECH) > 0.95


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ([TONE, -TONE], TONE),  # one is wired with reverse polarity
        ([TONE, -0.9 * TONE], TONE),
        ([TONE, np.zeros_like(TONE)], TONE),  # one microphone of two inputs
        ([np.full_like(TONE, 0.001), TONE], TONE),
        ([TONE, TONE], TONE),
        ([TONE, TONE / 2], 0.75 * TONE),
        ([np.zeros_like(TONE)] * 4 + [TONE, np.zeros_like(TONE)], TONE),
        ([TONE + 0.3], TONE),  # the offset of a cheap recorder
        ([0.001 * TONE], 0.001 * TONE),  # very quiet
        ([np.zeros_like(TONE)], np.zeros_like(TONE)),
        ([np.full_like(TONE, 0.3)], np.zeros_like(TONE)),
    ],
)
def test_channels_become_one_without_loss_of_level_and_without_offset(tmp_path, channels, expected):
    soundfile.write(tmp_path / "a.wav", np.column_stack(channels), 16_000, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "a.wav"), expected, atol=1e-6)


def test_flac_without_a_length_in_its_header_is_read(tmp_path, capfd):
    """The 36 bits of STREAMINFO's number of samples (RFC 9639, 8.2) end at byte 26; 0 is unknown."""
    soundfile.write(tmp_path / "a.flac", TONE, 16_000)
    stream = bytearray((tmp_path / "a.flac").read_bytes())
    assert int.from_bytes(stream[21:26]) & 0xFFFFFFFFF == 16_000
    for length in (0, 2**36 - 1):
        stream[21:26] = (int.from_bytes(stream[21:26]) >> 36 << 36 | length).to_bytes(5)
        (tmp_path / "a.flac").write_bytes(stream)
        assert np.abs(read_audio(tmp_path / "a.flac") - TONE).max() < 1e-4
    assert capfd.readouterr().err == ""


def wav(rate: int, size: int, samples: bytes) -> bytes:
    """A PCM file whose header says `size` bytes of samples."""
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    head = struct.pack("<4sI4s4sI", b"RIFF", min(36 + size, 2**32 - 1), b"WAVE", b"fmt ", 16)
    return head + form + struct.pack("<4sI", b"data", size) + samples


PCM = (TONE * 32_767).astype("<i2").tobytes()


@pytest.mark.parametrize("size", [0, 2**31 - 1, 2**32 - 40, 2**32 - 1])
def test_a_streamed_wav_has_a_length_that_nothing_is_concluded_from(tmp_path, capfd, size):
    (tmp_path / "a.wav").write_bytes(wav(16_000, size, PCM))
    assert np.abs(read_audio(tmp_path / "a.wav") - TONE).max() < 1e-4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "FLAC"])
def test_a_file_that_is_cut_off_gives_what_is_there_with_a_notice(tmp_path, capfd, kind):
    noise = np.random.default_rng(0).normal(0, 0.1, 64_000)
    soundfile.write(tmp_path / "whole", noise, 16_000, format=kind, subtype="PCM_16")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "question").write_bytes(content[: len(content) // 2])
    assert np.abs(read_audio(tmp_path / "question")[:28_000] - noise[:28_000]).max() < 1e-4
    line = r"notice: \S+/question is cut off: its header says 4\.0 s, (1\.8|1\.9|2\.0) s are there\n"
    assert re.fullmatch(line, capfd.readouterr().err)
    assert read_audio(io.BytesIO(content)).shape == (64_000,)
    assert capfd.readouterr().err == ""


def test_damaged_parts_are_left_out_with_a_notice(tmp_path, capfd):
    write(tmp_path / "a.mp3", "libmp3lame", 44_100, np.tile(SPEECH, 4)[:, None])
    content = bytearray((tmp_path / "a.mp3").read_bytes())
    content[40_000:70_000] = bytes(30_000)
    audio = read_audio(io.BytesIO(content), "memo.mp3")
    assert 4 * 16_000 < len(audio) < 8.5 * 16_000 and likeness(audio[:32_000], SPEECH) > 0.95
    assert re.fullmatch(r"notice: memo\.mp3 is damaged: \d+ parts? .*\n", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty.; record it again"),
        (b"no sound", "give WAV, FLAC, MP3"),
        (b"What is the capital of France?\n" * 1_000, "give WAV, FLAC, MP3"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4_000), "give WAV, FLAC, MP3"),
        (b"%PDF-1.7\n" + bytes(4_000), "give WAV, FLAC, MP3"),
        (b"PK\3\4" + bytes(4_000), "give WAV, FLAC, MP3"),
        (bytes(4_000), "give WAV, FLAC, MP3"),
        (PCM, "give WAV, FLAC, MP3"),  # a .raw file
        (wav(16_000, 0, b""), "holds no sound: it has no samples"),
        (wav(1, 3_200, PCM), "says that its rate is 1 Hz; allowed are 1000 to 768000 Hz"),
        (wav(2**31 - 1, 3_200, PCM), "says that its rate is 2147483647 Hz|give WAV"),
    ],
)
def test_a_file_that_is_no_audio_is_named_in_one_line_with_the_cause(tmp_path, capfd, content, cause):
    path = tmp_path / "question.wav"
    path.write_bytes(content)
    for source, name, called in ((path, None, path), (io.BytesIO(content), "row 7", "row 7")):
        with pytest.raises(UserError, match=cause) as raised:
            read_audio(source, name)
        assert str(raised.value).startswith(f"{called} ") and "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""  # FFmpeg writes nothing


@pytest.fixture
def address():
    """That of a server on loopback, and the requests that it gets."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret.wav", requests
    server.shutdown()


PLAYLISTS = [
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile {}\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n# {}\n",
    "[playlist]\nFile1={}\n",
    "ISSDCLIP {}\n",
]


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_playlist_opens_no_other_file_and_no_address(tmp_path, address, playlist):
    url, requests = address
    soundfile.write(tmp_path / "secret.wav", SPEECH, 16_000)
    for other in (url, str(tmp_path / "secret.wav"), "secret.wav"):
        for name in ("a.m3u8", "a.wav"):
            (tmp_path / name).write_text(playlist.format(other))
            with pytest.raises(UserError, match="is no readable audio file; give WAV"):
                read_audio(tmp_path / name)
    assert not requests


def test_up_to_30_minutes_are_read_and_more_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(30 * 60 * 8_000), 8_000)
    assert len(read_audio(tmp_path / "a.flac")) == 30 * 60 * 16_000
    soundfile.write(tmp_path / "day.flac", np.zeros(31 * 60 * 8_000), 8_000)
    with pytest.raises(UserError, match=r"day\.flac is longer than 30 minutes; cut it"):
        read_audio(tmp_path / "day.flac")


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
