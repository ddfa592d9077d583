"""The official client of OpenAI gets the student's answers; what the student does not do is refused."""

import base64
import concurrent.futures
import http.client
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit

import openai
import pytest
from loopback import flac, running
from openai import OpenAI

from speech_rba.errors import UserError
from speech_rba.model.answering import NOTHING_HEARD, load_answerer
from speech_rba.server import student as served
from speech_rba.server.api import Service, build_app

MODEL = "speech-rba/base"


@pytest.fixture(scope="module")
def service(aligned) -> Service:
    return Service(aligned, MODEL, "base of test", None, True, max_waiting=16, max_upload_bytes=2_000_000)


@pytest.fixture(scope="module")
def address(service):
    with running(build_app(service)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def audio_part(content: bytes) -> dict:
    data = base64.b64encode(content).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def ask(client: OpenAI, *parts: dict, **more):
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": list(parts)}], **more
    )


def status_of(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    connection.request(method, path, body, headers)
    return connection.getresponse().status


@pytest.fixture(scope="module")
def expected(base, spoken):
    """What the answerer of evaluation and talk gives."""
    return load_answerer(base, None)([spoken])[0]


def test_a_recording_has_the_answer_of_talk_and_its_transcript(client, spoken, expected):
    reply = ask(client, audio_part(flac(spoken)))
    assert reply.choices[0].message.content == expected.response
    assert reply.choices[0].finish_reason == "stop" and reply.system_fingerprint == "base of test"
    assert reply.speech_rba["transcript"] == expected.hypothesis == "What is the capital of France?"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens > 0


def test_a_streamed_answer_has_the_same_text_in_pieces(client, spoken, expected):
    chunks = list(ask(client, audio_part(flac(spoken)), stream=True, stream_options={"include_usage": True}))
    assert chunks[0].speech_rba["transcript"] == expected.hypothesis
    pieces = [chunk.choices[0].delta.content for chunk in chunks[1:-2]]
    assert len(pieces) > 1 and "".join(pieces) == expected.response
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0


def test_a_written_question_has_the_answer_to_its_text(client, aligned):
    text = "What is the capital of France?"
    [answer], _ = aligned.respond(aligned.student.text_prompts([text]))
    reply = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
    assert reply.choices[0].message.content == answer and reply.speech_rba["transcript"] is None


def test_text_beside_a_recording_stands_before_or_after_it_in_the_prompt(aligned, spoken):
    """The small student transcribes with certainty, so its prompt is that of the same written lines."""
    for parts, lines in (
        (["Be kind.", spoken], "Be kind.\nWhat is the capital of France?"),
        ([spoken, "Be", "kind."], "What is the capital of France?\nBe\nkind."),
    ):
        prompt = served.build_prompt(aligned.student, parts).prompt
        ids = aligned.student.tokenizer(lines, add_special_tokens=False).input_ids
        assert prompt.ids[:, 0].tolist() == ids


def test_two_clients_at_once_get_what_each_gets_alone(address, spoken, expected):
    texts = ["Who are you?", "What is rain?"]
    clients = [OpenAI(base_url=f"{address}/v1", api_key="none") for _ in range(2)]
    alone = [ask(clients[0], {"type": "text", "text": text}).choices[0].message.content for text in texts]

    def both(one: OpenAI, text: str) -> tuple[str, str]:
        stream = ask(one, audio_part(flac(spoken)), stream=True)
        written = ask(one, {"type": "text", "text": text}).choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream), written

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(both, clients, texts))
    assert answers == [(expected.response, written) for written in alone]


def test_a_recording_without_speech_is_said_to_have_none(client, spoken, monkeypatch):
    silent = served.build_prompt

    def without_speech(student, parts):
        return replace(silent(student, parts), hypothesis="", no_speech="silence")

    monkeypatch.setattr(served, "build_prompt", without_speech)
    reply = ask(client, audio_part(flac(spoken)))
    assert reply.choices[0].message.content == NOTHING_HEARD and reply.speech_rba["no_speech"] == "silence"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 0.7, "temperature cannot be 0.7"),
        ("n", 2, "n cannot be 2"),
        ("tools", [{"type": "function", "function": {"name": "f"}}], "the student calls no tools"),
        ("response_format", {"type": "json_object"}, "the answer is text"),
        ("max_completion_tokens", 5, "an answer has at most"),
        ("logprobs", True, "logprobs cannot be true"),
        ("min_p", 0.1, "the field 'min_p' is not known"),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(client, field, value, message):
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        ask(client, {"type": "text", "text": "Why?"}, extra_body={field: value})
    assert refused.value.param == field and refused.value.type == "invalid_request_error"


def test_fields_that_change_nothing_are_accepted(client):
    harmless = {"temperature": 0, "n": 1, "seed": 5, "user": "ann", "top_p": 0.9, "max_tokens": 4096}
    assert ask(client, {"type": "text", "text": "Why?"}, **harmless).choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hi"}], "system message"),
        ([{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}], "one user message"),
        ([{"role": "assistant", "content": "Hi"}], 'role "assistant" cannot be given'),
        ([{"role": "user", "content": "  "}], "the message is empty"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "allowed: text, input_aud"),
        ([{"role": "user", "content": [audio_part(b"no sound at all")]}], "no readable audio file"),
        ([{"role": "user", "content": [audio_part(b"x" * 9), audio_part(b"")]}], "no readable audio file"),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "%"}}]}],
            "the recording is no base64",
        ),
        ([], "no list of messages"),
    ],
)
def test_a_message_that_cannot_be_answered_is_refused_with_the_reason(client, messages, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(model=MODEL, messages=messages)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "status"), [(UserError("the clip is empty"), 400), (KeyError("x"), 500)])
def test_a_fault_in_transcription_has_a_status_streamed_or_not(client, monkeypatch, stream, fault, status):
    def fail(_student, _parts):
        raise fault

    monkeypatch.setattr(served, "build_prompt", fail)
    with pytest.raises(openai.APIStatusError) as failed:
        ask(client, {"type": "text", "text": "Why?"}, stream=stream)
    assert failed.value.status_code == status and failed.value.body["message"]
    assert ("the clip is empty" in failed.value.body["message"]) == (status == 400)


def test_another_model_is_not_found_and_the_served_one_is_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "speech-rba"
    with pytest.raises(openai.NotFoundError, match="served is 'speech-rba/base'"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/chat/completions", {"Content-Type": "text/plain"}, 415),  # what a page may send unchecked
        ("/v1/chat/completions", {"Content-Type": "application/json", "Host": "evil.example"}, 403),
        ("/v1/chat/completions", {"Content-Type": "application/json", "Origin": "http://evil.test"}, 403),
        ("/v1/chat/completions", {"Content-Type": "application/json", "Content-Length": "9000000"}, 413),
        ("/v1/chat/completions", {"Content-Type": "application/json"}, 400),
        ("/v1/completions", {"Content-Type": "application/json"}, 404),
    ],
)
def test_a_request_of_another_site_kind_or_size_is_refused(address, path, headers, status):
    assert status_of(address, "POST", path, b"{", **headers) == status


def test_an_upload_without_a_length_is_cut_at_the_limit(address):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    blocks = (b"x" * 100_000 for _ in range(21))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", blocks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_a_key_is_needed_where_one_is_set(service):
    with running(build_app(replace(service, key="secret"))) as address:
        assert status_of(address, "GET", "/health") == 200
        assert status_of(address, "GET", "/metrics") == 401
        with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
            OpenAI(base_url=f"{address}/v1", api_key="secreT").models.list()
        assert OpenAI(base_url=f"{address}/v1", api_key="secret").models.list().data


def test_a_full_queue_is_answered_with_when_to_try_again(service, monkeypatch):
    started, release = threading.Event(), threading.Event()

    def slow(_aligned, _parts):
        started.set()
        release.wait(120)
        yield served.Prompt(None, 3)
        yield "done"

    monkeypatch.setattr(served, "answer", slow)
    with running(build_app(replace(service, max_waiting=1))) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)

        def one():
            return ask(client, {"type": "text", "text": "Why?"}).choices[0].message.content

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answered = [pool.submit(one)]
            assert started.wait(120)
            answered.append(pool.submit(one))
            while not waiting(address):
                time.sleep(0.01)
            with pytest.raises(openai.RateLimitError, match="1 requests wait already") as full:
                one()
            assert int(full.value.response.headers["retry-after"]) > 0
            release.set()
            assert [each.result() for each in answered] == ["done", "done"]


def waiting(address: str) -> float:
    return metrics(address)["speech_rba_queue_length"]


def metrics(address: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def test_requests_and_seconds_of_audio_are_counted(address, client, spoken):
    key = 'speech_rba_requests_total{path="/v1/chat/completions",status="200"}'
    before = metrics(address)
    ask(client, audio_part(flac(spoken)))
    after = metrics(address)
    assert after[key] == before.get(key, 0) + 1
    seconds = after["speech_rba_audio_seconds_total"] - before["speech_rba_audio_seconds_total"]
    assert seconds == pytest.approx(len(spoken) / 16_000)
    assert after["speech_rba_completion_tokens_total"] > before["speech_rba_completion_tokens_total"]


def test_a_client_that_leaves_stops_its_answer(service, address, spoken, expected, monkeypatch):
    given, closed = [], threading.Event()

    def endless(_aligned, _parts):
        try:
            yield served.Prompt(None, 3)
            while True:
                time.sleep(0.01)
                given.append("word ")
                yield "word "
        finally:
            closed.set()

    monkeypatch.setattr(served, "answer", endless)
    with running(build_app(service)) as another:
        client = OpenAI(base_url=f"{another}/v1", api_key="none")
        stream = ask(client, {"type": "text", "text": "Why?"}, stream=True)
        next(iter(stream))
        stream.close()
        assert closed.wait(120)
        with pytest.raises(openai.APITimeoutError):  # a whole answer too
            closed.clear()
            ask(client.with_options(timeout=0.5, max_retries=0), {"type": "text", "text": "Why?"})
        assert closed.wait(120)
