"""Any OpenAI-compatible speech endpoint: `POST {SPEECH_ENDPOINT_URL}/audio/speech`.

The name of a voice holds the model and the server's name for the voice, MODEL/VOICE, and params.yaml lists
the voices in use. Where the server is and the key that it asks for do not change the result, so both come
from the environment: SPEECH_ENDPOINT_URL and SPEECH_ENDPOINT_KEY.
"""

import hashlib
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from speech_rba.data.audio import SAMPLE_RATE, read_audio
from speech_rba.errors import UserError
from speech_rba.synthesis.voices.speaker import Speaker

VOICES: dict[str, Speaker] = {}  # params.yaml names them
ANSWERS = Path("work/speech_endpoint")  # a server may speak differently each time: an answer is kept
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TIMEOUT_S = (10, 120)  # to connect, and between two parts of an answer
NUM_RETRIES = 4
BACKOFF_S = 1.0  # the pauses are 0, 2, 4 and 8 times this
MAX_RETRY_AFTER_S = 60
RETRIED = (429, 500, 502, 503, 504)


def say(name: str, text: str, rate: float) -> tuple[np.ndarray, int]:
    """Float32 samples `(N,)` and their sampling rate; `(0,)` when the text has no word.

    An answer is kept below ANSWERS by model, voice, text and speed, so that none is asked for twice.

    Raises:
        UserError: the name has no model, the environment names no server, or it does not answer with speech.
    """
    model, _, voice = name.rpartition("/")
    if not (model and voice):
        raise UserError(f"no voice 'endpoint-{name}'; name it endpoint-MODEL/VOICE")
    if not re.search(r"\w", text):
        return np.zeros(0, np.float32), SAMPLE_RATE
    question: dict[str, str | float] = {
        "model": model,
        "input": text,
        "voice": voice,
        "speed": round(rate, 3),
        "response_format": "wav",
    }
    digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    file = ANSWERS / f"{digest[:32]}.audio"
    if file.exists():
        return read_audio(file), SAMPLE_RATE
    url, key = address()
    answer = _post(url, key, question)
    audio = _decoded(answer, f"{url} (model {model}, voice {voice})")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_bytes(answer)
    os.replace(partial, file)
    return audio, SAMPLE_RATE


def address() -> tuple[str, str]:
    """The URL that speaks, and the key, empty for none.

    Raises:
        UserError: the environment names no server, or one to which the key would go unencrypted.
    """
    base, key = (os.environ.get(f"SPEECH_ENDPOINT_{name}", "").strip() for name in ("URL", "KEY"))
    try:
        parts = urlsplit(base)
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.username
    except ValueError:
        usable = False
    if not usable:
        raise UserError(
            "SPEECH_ENDPOINT_URL names no server; set it to the address of an OpenAI-compatible one, without "
            "a user name, such as http://127.0.0.1:8880/v1"
        )
    if key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise UserError(
            f"SPEECH_ENDPOINT_KEY would go unencrypted to {parts.hostname}; use https, or remove the key"
        )
    if not re.fullmatch(r"[!-~]*", key):  # an error of the HTTP library would show it
        raise UserError("SPEECH_ENDPOINT_KEY holds a space or a sign that is not ASCII; set it again")
    return f"{base.rstrip('/')}/audio/speech", key


def _post(url: str, key: str, question: dict[str, str | float]) -> bytes:
    """The body of the answer. 429, server errors and time-outs are tried again."""
    label = f"{url} (model {question['model']}, voice {question['voice']})"

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    retry = Retry(
        NUM_RETRIES,
        connect=0,  # nobody listens
        status_forcelist=RETRIED,
        allowed_methods=None,  # POST too
        backoff_factor=BACKOFF_S,
        raise_on_status=False,
        retry_after_max=MAX_RETRY_AFTER_S,
    )
    try:
        with requests.Session() as session:
            session.mount(url, HTTPAdapter(max_retries=retry))
            session.auth = authorize  # without it the machine's .netrc would be used
            answer = session.post(url, json=question, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        raise UserError(f"{label} does not answer: {cause}; start it, or set SPEECH_ENDPOINT_URL") from error
    if answer.status_code != requests.codes.ok:
        raise UserError(f"{label} answers with status {answer.status_code}: {_message(answer)}")
    return answer.content


def _message(answer: requests.Response) -> str:
    """What the server says, in one line: `error.message` or `detail` of its JSON, or the beginning of its
    text."""
    text: object = answer.text
    try:
        body = answer.json()
        text = body["error"]["message"] if "error" in body else body["detail"]
    except (ValueError, KeyError, TypeError):
        pass
    return f"{' '.join(str(text).split()):.200}" or "(empty)"


def _decoded(answer: bytes, label: str) -> np.ndarray:
    """The speech of an answer, float32 `(N,)` at SAMPLE_RATE, whatever its format.

    Raises:
        UserError: it is none.
    """
    try:
        return read_audio(io.BytesIO(answer), label)
    except UserError as error:
        start = " ".join(answer[:80].decode("utf-8", "replace").split())
        raise UserError(
            f"{label} answers with {len(answer)} bytes that are no speech, which begin with {start!r}; "
            "choose a server that gives WAV"
        ) from error
