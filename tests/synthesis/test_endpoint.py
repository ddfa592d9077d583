"""The endpoint engine against a real server on loopback, which speaks with espeak-ng."""

import asyncio
import io
import json
import logging
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from speech_rba.config import change_params, load_params
from speech_rba.errors import UserError
from speech_rba.records import Clip, read_jsonl
from speech_rba.stages import voice as voice_stage
from speech_rba.synthesis import augment
from speech_rba.synthesis.plan_clips import Setting, draw_speech, plan_rows
from speech_rba.synthesis.voices import endpoint, espeak, voices
from tests.stages.test_voice import make_inputs, record_in_this_process, row

ROOT = Path(__file__).parents[2]
WOMAN, MAN = "endpoint-team/tts-1/alloy", "endpoint-team/tts-1/onyx"
SPEAKERS = {"alloy": "en-us+f3", "onyx": "en-gb-x-rp"}
UNKNOWN = b"\xff" * 4  # a size in a header
TEXT = "Can you tell me about the mountains?"


def streamed(audio: np.ndarray, rate: int) -> bytes:
    """A WAV whose header has no sizes, as servers write that send the samples before they know how many."""
    samples = (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    header = b"RIFF" + UNKNOWN + b"WAVEfmt " + form + b"data" + UNKNOWN
    return header + samples


def encoded(audio: np.ndarray, rate: int, kind: str) -> bytes:
    if kind == "streamed":
        return streamed(audio, rate)
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind)
    return file.getvalue()


class Server:
    """What it was asked, and how it answers: `faults` are the answers to the next questions."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.faults: list[Response | float] = []  # a response, or seconds of silence
        self.kind = "WAV"
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/audio/speech")
        async def speech(request: Request) -> Response:
            self.bodies.append(body := json.loads(await request.body()))
            self.keys.append(request.headers.get("authorization"))
            if self.faults:
                fault = self.faults.pop(0)
                if isinstance(fault, Response):
                    return fault
                await asyncio.sleep(fault)
            if body["voice"] not in SPEAKERS:
                return JSONResponse({"error": {"message": f"no voice\n{body['voice']}"}}, 400)
            spoken = espeak.say(SPEAKERS[body["voice"]], body["input"], body["speed"])
            return Response(encoded(*spoken, self.kind), media_type="audio/wav")

        return app


@pytest.fixture(scope="module")
def running():
    server, listener = Server(), socket.create_server(("127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(server.app(), log_level=logging.CRITICAL, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.01)
    yield server
    uvicorn_server.should_exit = True
    thread.join()


@pytest.fixture
def server(running, tmp_path, monkeypatch):
    """The server, in a folder without earlier answers; pauses between tries are short."""
    running.__dict__.update(bodies=[], keys=[], faults=[], kind="WAV")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEECH_ENDPOINT_URL", running.url)
    monkeypatch.delenv("SPEECH_ENDPOINT_KEY", raising=False)
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.01)
    return running


def speak(name: str = WOMAN, text: str = TEXT, rate: float = 1.0, pitch: float = 0.0) -> np.ndarray:
    return voices.speak(name, text, rate, pitch)


def test_the_server_is_asked_for_the_voice_at_the_rate_and_its_answer_is_kept(server, monkeypatch):
    monkeypatch.setenv("SPEECH_ENDPOINT_KEY", "secret")
    audio = speak(rate=1.25)
    assert server.bodies == [
        {"model": "team/tts-1", "input": TEXT, "voice": "alloy", "speed": 1.25, "response_format": "wav"}
    ]
    assert server.keys == ["Bearer secret"]
    expected = voices.speak("espeak-en-us+f3", TEXT, 1.25, 0.0)
    assert audio.dtype == np.float32 and len(audio) == len(expected)
    assert np.abs(audio - expected).max() < 1e-3  # the answer has 16 bits
    monkeypatch.delenv("SPEECH_ENDPOINT_URL")
    assert np.array_equal(speak(rate=1.25), audio) and len(server.bodies) == 1
    assert "secret" not in "".join(str(path) for path in Path("work").rglob("*"))


def test_another_voice_text_or_rate_is_another_answer(server):
    assert (
        len(
            {speak().tobytes(), speak(MAN).tobytes(), speak(text="Why?").tobytes(), speak(rate=0.8).tobytes()}
        )
        == 4
    )
    assert len(server.bodies) == 4


def test_pitch_is_moved_here_and_keeps_the_time(server):
    assert len(speak(pitch=2.0)) == pytest.approx(len(speak()), rel=0.09)
    assert [body["speed"] for body in server.bodies] == [0.891, 1.0]  # 2 ** (-2 / 12)


def test_a_text_without_words_is_not_asked_for(server):
    assert len(speak(text="...")) == 0 and not server.bodies


@pytest.mark.parametrize("kind", ["streamed", "FLAC", "OGG", "MP3"])
def test_an_answer_of_any_format_is_read(server, kind):
    whole = voices.speak("espeak-en-us+f3", TEXT, 1.0, 0.0)
    server.kind = kind
    audio = speak()
    assert len(audio) == pytest.approx(len(whole), rel=0.05)
    assert augment.rms(audio) == pytest.approx(augment.rms(whole), rel=0.05)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, status):
    server.faults = [Response("busy", status)] * 3
    assert len(speak()) > 10_000 and len(server.bodies) == 4


def test_the_server_says_when_to_ask_again(server):
    server.faults = [Response("busy", 429, {"Retry-After": "1"})]
    started = time.monotonic()
    speak()
    assert 1 < time.monotonic() - started < 5


def test_a_time_out_is_tried_again(server, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT_S", (10, 2))
    server.faults = [20.0]
    assert len(speak()) > 10_000 and len(server.bodies) >= 2


def test_a_server_that_never_answers_is_named_after_the_last_try(server, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT_S", (10, 0.2))
    server.faults = [20.0] * 5
    with pytest.raises(UserError, match=r"voice alloy\) does not answer: .*[Rr]ead timed out"):
        speak()
    assert not list(Path().rglob("*.audio"))


@pytest.mark.parametrize(
    ("fault", "message", "num_asked"),
    [
        (
            JSONResponse({"detail": "no such\nmodel"}, 404),
            r"voice alloy\) answers with status 404: no such model",
            1,
        ),
        (
            Response("<h1>Wrong key</h1>", 401),
            r"/v1/audio/speech \(model team/tts-1, .* 401: <h1>Wrong key</h1>",
            1,
        ),
        (Response("", 307, {"Location": "http://127.0.0.1:9/"}), r"answers with status 307: \(empty\)", 1),
        (Response("down", 503), r"answers with status 503: down", 5),
        (
            Response('{"ok": true}'),
            r"answers with 12 bytes that are no speech, which begin with '{\"ok\": true}'",
            1,
        ),
        (Response(b""), r"answers with 0 bytes that are no speech", 1),
    ],
)
def test_an_answer_that_is_no_speech_is_one_clear_line_and_is_not_kept(server, fault, message, num_asked):
    server.faults = [fault] * num_asked
    with pytest.raises(UserError, match=message) as error:
        speak()
    assert "\n" not in str(error.value) and len(server.bodies) == num_asked
    assert not list(Path().rglob("*.audio"))
    assert len(speak()) > 10_000


def test_a_voice_that_the_server_lacks_is_named(server):
    with pytest.raises(UserError, match=r"voice bob\) answers with status 400: no voice bob$"):
        speak("endpoint-team/tts-1/bob")
    with pytest.raises(UserError, match=r"no voice 'endpoint-alloy'; name it endpoint-MODEL/VOICE"):
        speak("endpoint-alloy")


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("", "", "SPEECH_ENDPOINT_URL names no server; set it"),
        ("localhost:8000/v1", "", "SPEECH_ENDPOINT_URL names no server"),
        ("http://[1/v1", "", "SPEECH_ENDPOINT_URL names no server"),
        ("https://me:word@speech.example/v1", "", "SPEECH_ENDPOINT_URL names no server"),
        ("http://speech.example/v1", "secret", "KEY would go unencrypted to speech.example; use https"),
        ("http://127.0.0.1:9/v1", "se cret", "KEY holds a space"),
        ("http://127.0.0.1:9/v1", "", r"127.0.0.1:9/v1/audio/speech .*does not answer: .*refused"),
    ],
)
def test_a_wrong_address_or_key_is_named_and_the_key_is_not_shown(server, monkeypatch, url, key, message):
    monkeypatch.setenv("SPEECH_ENDPOINT_URL", url)
    monkeypatch.setenv("SPEECH_ENDPOINT_KEY", key)
    with pytest.raises(UserError, match=message) as error:
        speak()
    assert "cret" not in str(error.value) and "word@" not in str(error.value)


@pytest.fixture
def params(server):
    """The parameters with two voices of the endpoint, one of them held out for the test."""
    text = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(text)
    facts = {WOMAN: {"gender": "woman", "accent": "Indian"}, MAN: {"gender": "man", "accent": "British"}}
    values = {"voice.endpoint_voices": facts, "voice.heldout_voices": [MAN]}
    change_params(Path("params.yaml"), values)
    return load_params()


def test_the_voice_stage_speaks_with_the_endpoint_and_asks_nothing_twice(server, params, monkeypatch):
    make_inputs(Path(), [row(i, "test", f"Why {i}?") for i in range(2)])
    monkeypatch.setattr(voice_stage, "check_conditions", lambda _speeches: None)  # it needs seven test rows
    record_in_this_process(monkeypatch)
    hashes, num_asked = [], []
    for out in ("first", "second"):
        voice_stage.run(params, Path("data"), Path("rows"), Path(out))
        clips = read_jsonl(Path(out, "manifest.jsonl"), Clip)
        hashes.append([clip.sha256 for clip in clips])
        num_asked.append(len(server.bodies))
        server.faults = [Response("asked again", 400)]
    assert hashes[0] == hashes[1] and num_asked[0] == num_asked[1]
    assert "Why 1?" in [body["input"] for body in server.bodies]
    assert {clip.voice for clip in clips if clip.row_id == "r1"} == {MAN}
    assert all(clip.engine == "endpoint" and clip.heldout_voice for clip in clips if clip.row_id == "r1")
    assert all(0.4 < clip.duration_s < 5 for clip in clips)


def test_training_speeches_are_in_voices_of_the_endpoint_that_are_not_held_out(params):
    rows = [row(i, "train", "Why?") for i in range(20)]
    clips = [clip for [clip] in plan_rows(params.voice, voices.training_voices(params.voice), rows)]
    assert {clip.voice for clip in clips if clip.engine == "endpoint"} == {WOMAN}
    setting = Setting(speaker={"accent": "Indian"})
    speech = draw_speech(params.voice, "k", [MAN, WOMAN], "r", "s", "test", "Why?", setting)
    assert speech["voice"] == WOMAN


def test_the_speakers_of_the_endpoint_are_known_and_in_no_background(params):
    assert voices.speakers(params.voice)[MAN] == ("man", "British")
    assert WOMAN in voices.training_voices(params.voice)
    assert voices.of_packages([WOMAN, "piper-joe"]) == ["piper-joe"]
    Path("data").mkdir()
    Path("data/topics.txt").write_text("lions\nrain\n")
    engines = {name.partition("-")[0] for name, _ in voices.plan_talkers(params.voice, Path("data"))}
    assert engines == {"hibari", "piper", "espeak"}


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("endpoint-alloy", {"gender": "woman", "accent": "British"}, "name a voice of an endpoint as"),
        ("tts-1/alloy", {"gender": "woman", "accent": "British"}, "name a voice of an endpoint as"),
        (WOMAN, {"gender": "woman", "accent": "british"}, "accent: Input should be 'American'"),
        (WOMAN, {"gender": "woman"}, "accent: Field required"),
    ],
)
def test_a_voice_without_model_gender_or_accent_is_refused(tmp_path, name, facts, message):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(UserError, match=message):
        change_params(tmp_path / "params.yaml", {"voice.endpoint_voices": {name: facts}})
