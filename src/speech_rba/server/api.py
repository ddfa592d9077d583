"""The OpenAI-compatible server of one student."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from speech_rba.errors import UserError
from speech_rba.model.answering import AlignedStudent
from speech_rba.server import chat, student
from speech_rba.server.guards import check_host, check_key, check_origin, read_body
from speech_rba.server.metrics import Metrics, build_metrics, counted
from speech_rba.server.refusal import Refusal, error_body, refused
from speech_rba.server.worker import Job, Worker, abandon_when_left

logger = logging.getLogger(__name__)
PATHS = {"/v1/chat/completions", "/v1/models", "/health", "/metrics"}


@dataclass(frozen=True)
class Service:
    """What is served, under which name, and to whom."""

    aligned: AlignedStudent
    model: str  # its id in requests
    fingerprint: str  # the version of its weights
    key: str | None
    loopback: bool
    max_waiting: int
    max_upload_bytes: int


def build_app(service: Service) -> ASGIApp:
    """The application that answers `service`."""
    worker = Worker(service.max_waiting)
    metrics = build_metrics(worker)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # the pages need the network
    add_errors(app)

    def admit(request: Request) -> None:
        if service.loopback:
            check_host(request)
        check_origin(request)
        check_key(request, service.key)

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        admit(request)
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise Refusal(415, "send the request as Content-Type: application/json")
        worker.check_room()  # before the work of reading
        body = await read_body(request, service.max_upload_bytes)
        limit = service.aligned.student.config.max_completion_tokens
        question = await asyncio.to_thread(chat.parse, body, service.model, limit)
        job = worker.start(lambda: student.answer(service.aligned, question.parts))
        metrics.audio_s.inc(question.audio_s)
        completion = chat.Completion.new(service.model, service.fingerprint)
        if not question.stream:
            watch = asyncio.create_task(abandon_when_left(request, job))
            try:
                return JSONResponse(await whole(job, completion, service, metrics))
            finally:
                watch.cancel()
        events = await streamed(job, completion, question, service, metrics)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    add_information(app, service, worker, metrics, admit)
    return counted(app, metrics, PATHS)


def add_information(app: FastAPI, service: Service, worker: Worker, metrics: Metrics, admit) -> None:
    """Adds the routes that say what is served and how it is."""
    entry = {"id": service.model, "object": "model", "created": 0, "owned_by": "speech-rba"}

    @app.get("/v1/models")
    async def models(request: Request) -> dict:
        admit(request)
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict:
        admit(request)
        if name != service.model:
            message = f"there is no model {name!r} here; served is {service.model!r}"
            raise Refusal(404, message, param="model", code="model_not_found")
        return entry

    @app.get("/health")  # open: a load balancer has no key
    async def health() -> dict:
        return {"status": "ok", "model": service.model, "waiting": worker.num_waiting}

    @app.get("/metrics")
    async def numbers(request: Request) -> Response:
        admit(request)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def add_errors(app: FastAPI) -> None:
    """Every error has OpenAI's form."""

    @app.exception_handler(Refusal)
    async def on_refusal(_request: Request, refusal: Refusal) -> JSONResponse:
        return refused(refusal)

    @app.exception_handler(UserError)
    async def on_user_error(_request: Request, error: UserError) -> JSONResponse:
        return refused(Refusal(400, str(error)))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(error.status_code, message), error.status_code)

    @app.exception_handler(Exception)
    async def on_fault(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse(error_body(500, "a fault of the server; its log has the cause"), 500)


async def whole(job: Job, completion: chat.Completion, service: Service, metrics: Metrics) -> dict:
    """The body of an answer, once it is complete."""
    results = [result async for result in job.each()]
    if not results:
        raise Refusal(499, "the client left before its answer", code="client_left")
    prompt, text = results[0], "".join(results[1:])
    return completion.whole(prompt, text, count(prompt, text, service, metrics))


async def streamed(
    job: Job, completion: chat.Completion, question: chat.Question, service: Service, metrics: Metrics
) -> AsyncIterator[bytes]:
    """The events of an answer. The recording is transcribed first, so that its error has a status."""
    results = job.each()
    prompt = await anext(results)

    async def events() -> AsyncIterator[bytes]:
        pieces = []
        async with aclosing(results):  # a client that leaves stops the answer
            yield completion.first(prompt)
            try:
                async for piece in results:
                    pieces.append(piece)
                    yield completion.chunk({"content": piece})
            except Exception as error:
                logger.exception("an answer failed after it had begun")
                yield chat.failure(500, f"the answer failed: {error}")
                return
        num = count(prompt, "".join(pieces), service, metrics)
        for each in completion.last(prompt, num, question.include_usage):
            yield each

    return events()


def count(prompt: student.Prompt, text: str, service: Service, metrics: Metrics) -> int:
    """The number of tokens of an answer, which the metrics now include."""
    num = len(service.aligned.student.tokenizer(text, add_special_tokens=False).input_ids)
    metrics.tokens.inc(num)
    if prompt.no_speech:
        metrics.no_speech.inc()
    return num
