"""Requests and responses in the form of OpenAI's chat completions.

A request that asks for what the student does not do is refused: an answer is always as it was evaluated.
"""

import base64
import binascii
import io
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from speech_rba.data.audio import read_audio
from speech_rba.errors import UserError
from speech_rba.server.refusal import Refusal, error_body
from speech_rba.server.student import Part, Prompt, recognized

# Fields that would change the answer, with the values at which they do not, and why others are refused.
FIXED: dict[str, tuple[tuple, str]] = {
    "n": ((1,), "one answer is given"),
    "temperature": ((0,), "the answer is the likeliest one, as it was evaluated: leave it out or set 0"),
    "presence_penalty": ((0,), "the answer is the likeliest one"),
    "frequency_penalty": ((0,), "the answer is the likeliest one"),
    "logit_bias": (({},), "the answer is the likeliest one"),
    "logprobs": ((False,), "they are not given"),
    "top_logprobs": ((0,), "they are not given"),
    "stop": (([], ""), "an answer ends with a whole sentence"),
    "tools": (([],), "the student calls no tools"),
    "tool_choice": (("none", "auto"), "the student calls no tools"),
    "functions": (([],), "the student calls no functions"),
    "function_call": (("none", "auto"), "the student calls no functions"),
    "response_format": (({"type": "text"},), "the answer is text"),
    "modalities": ((["text"],), "the answer is text"),
    "audio": ((), "the answer is text"),
    "prediction": ((), "it is not used"),
    "web_search_options": ((), "the student searches nothing"),
    "reasoning_effort": (("none",), "the student does not reason"),
}
# They change no answer here: the likeliest answer has no seed, and top_p leaves it as it is.
HARMLESS = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "seed",
    "service_tier",
    "store",
    "top_p",
    "user",
}


@dataclass(frozen=True)
class Question:
    """What a request asks."""

    parts: list[Part]
    stream: bool
    include_usage: bool

    @property
    def audio_s(self) -> float:
        return sum(len(part) / 16_000 for part in self.parts if not isinstance(part, str))


def parse(body: bytes, model: str, max_completion_tokens: int) -> Question:
    """The question in a request's body to `model`, whose answers have at most this many tokens.

    Raises:
        Refusal: it is no such request, or asks for what the student does not do.
    """
    try:
        request = json.loads(body)
    except ValueError:  # a UnicodeDecodeError too
        raise Refusal(400, "the body is no JSON") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    if not isinstance(request, dict):
        raise Refusal(400, "the body is no JSON object")
    if request.get("model") != model:
        message = f"there is no model {request.get('model')!r} here; served is {model!r}"
        raise Refusal(404, message, param="model", code="model_not_found")
    check_fields(request, max_completion_tokens)
    options = request.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Refusal(400, "stream_options is no object", param="stream_options")
    stream = request.get("stream") is True
    return Question(question_parts(request.get("messages")), stream, options.get("include_usage") is True)


def check_fields(request: dict, max_completion_tokens: int) -> None:
    """Raises Refusal for a field that is unknown, or would change the answer."""
    for name, value in request.items():
        if value is None or name in HARMLESS:
            continue
        if name not in FIXED:
            raise Refusal(400, f"the field {name!r} is not known here: leave it out", param=name)
        allowed, why = FIXED[name]
        if value not in allowed:
            raise Refusal(400, f"{name} cannot be {shown(value)}: {why}", param=name)
    for name in ("max_tokens", "max_completion_tokens"):
        limit = request.get(name)
        if limit is not None and (not isinstance(limit, int) or limit < max_completion_tokens):
            message = (
                f"{name} cannot be {shown(limit)}: an answer has at most {max_completion_tokens} tokens, as "
                "it was evaluated; leave it out, or give at least that"
            )
            raise Refusal(400, message, param=name)
    if not isinstance(request.get("stream"), bool | None):
        raise Refusal(400, "stream is neither true nor false", param="stream")


def shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def question_parts(messages: Any) -> list[Part]:
    """The texts and the clip of the only message, in their order."""
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise Refusal(400, "messages is no list of messages", param="messages")
    for place, message in enumerate(messages):
        role = message.get("role")
        if role in ("system", "developer"):
            why = "the student has the instruction that it was trained with: leave it out"
            raise Refusal(400, f"a {role} message cannot be given: {why}", param=f"messages[{place}]")
        if role != "user":
            why = "the student answers one question: send the user's last message alone"
            raise Refusal(400, f"the role {shown(role)} cannot be given: {why}", param=f"messages[{place}]")
    if len(messages) > 1:
        message = "the student answers one question: send one user message"
        raise Refusal(400, message, param="messages[1]")
    content = messages[0].get("content")
    parts: list[Part] = [content] if isinstance(content, str) else content_parts(content)
    if not any(not isinstance(part, str) or part.strip() for part in parts):
        raise Refusal(400, "the message is empty", param="messages[0].content")
    return parts


def content_parts(content: Any) -> list[Part]:
    """Each part of a message's content: a text, or a decoded recording, of which there may be one."""
    if not isinstance(content, list):
        raise Refusal(400, "content is neither a text nor a list of parts", param="messages[0].content")
    parts: list[Part] = []
    for place, part in enumerate(content):
        param = f"messages[0].content[{place}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "input_audio":
            if not all(isinstance(part, str) for part in parts):
                raise Refusal(400, "one recording is answered at a time", param=param)
            parts.append(recording(part.get("input_audio"), f"{param}.input_audio"))
        else:
            message = f"a part of the type {shown(kind)} cannot be read; allowed: text, input_audio"
            raise Refusal(400, message, param=param)
    return parts


def recording(audio: Any, param: str) -> Part:
    """The clip in an `input_audio`; its format is seen from its content, whatever `format` says."""
    data = audio.get("data") if isinstance(audio, dict) else None
    if not isinstance(data, str):
        raise Refusal(400, "input_audio has no data in base64", param=f"{param}.data")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "the recording is no base64", param=f"{param}.data") from None
    try:
        return read_audio(io.BytesIO(content), "the recording")
    except UserError as error:
        raise Refusal(400, str(error), param=f"{param}.data", code="invalid_audio") from error


@dataclass(frozen=True)
class Completion:
    """One completion's identity, which all its chunks share."""

    model: str
    fingerprint: str
    id: str
    created: int

    @classmethod
    def new(cls, model: str, fingerprint: str) -> "Completion":
        return cls(model, fingerprint, f"chatcmpl-{uuid.uuid4().hex}", int(time.time()))

    def body(self, kind: str, choices: list[dict], **more: Any) -> dict:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }

    def whole(self, prompt: Prompt, text: str, num_completion: int) -> dict:
        """The body of a whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = usage_of(prompt, num_completion)
        return self.body("chat.completion", [choice], usage=usage, speech_rba=recognized(prompt))

    def chunk(self, delta: dict, finish: str | None = None, **more: Any) -> bytes:
        """A server-sent event with a piece of the answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(self.body("chat.completion.chunk", [choice], **more))

    def first(self, prompt: Prompt) -> bytes:
        """The first event of a streamed answer, with what was recognized."""
        return self.chunk({"role": "assistant", "content": ""}, speech_rba=recognized(prompt))

    def last(self, prompt: Prompt, num_completion: int, include_usage: bool) -> Iterator[bytes]:
        """The events that end a streamed answer."""
        yield self.chunk({}, "stop")
        if include_usage:
            yield event(self.body("chat.completion.chunk", [], usage=usage_of(prompt, num_completion)))
        yield b"data: [DONE]\n\n"


def event(body: dict) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def failure(status: int, message: str) -> bytes:
    """The event of an error after a stream has begun."""
    return event(error_body(status, message))


def usage_of(prompt: Prompt, num_completion: int) -> dict:
    return {
        "prompt_tokens": prompt.num_tokens,
        "completion_tokens": num_completion,
        "total_tokens": prompt.num_tokens + num_completion,
    }
