"""The page on which one talks to all systems of a run, and rates their answers."""

import asyncio
import io
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from speech_rba.data.audio import read_audio
from speech_rba.errors import UserError
from speech_rba.records import Thumb
from speech_rba.server.api import add_errors
from speech_rba.server.feedback import Exchange, Exchanges, save
from speech_rba.server.guards import check_host, check_origin, read_body
from speech_rba.server.refusal import Refusal
from speech_rba.server.systems import Systems, answers
from speech_rba.server.worker import Job, Worker

STATIC = Path(__file__).parent / "static"
FILES = {"/": "demo.html", "/demo.css": "demo.css", "/demo.js": "demo.js"}
PAGE_HEADERS = {
    # nothing from elsewhere, and no other page shows this one in a frame
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MAX_WAITING = 4
THUMBS: dict[str, Thumb] = {"up": "up", "down": "down"}
logger = logging.getLogger(__name__)


def build_demo(systems: Systems, feedback: Path, max_upload_bytes: int) -> ASGIApp:
    """The application of the page; thumbs are written to the file `feedback`."""
    worker, exchanges = Worker(MAX_WAITING), Exchanges()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_errors(app)
    for path, name in FILES.items():
        app.get(path)(page_of(STATIC / name))

    @app.post("/ask")
    async def ask(request: Request) -> Response:
        check_host(request)
        check_origin(request)
        worker.check_room()
        upload = await read_body(request, max_upload_bytes)
        clip = await asyncio.to_thread(read_audio, io.BytesIO(upload), "the recording")
        name = uuid.uuid4().hex
        exchange = exchanges.add(name, upload)
        job = worker.start(lambda: answers(systems, clip))
        return StreamingResponse(lines(job, name, exchange), media_type="application/x-ndjson")

    @app.post("/feedback")
    async def rate(request: Request) -> dict:
        check_host(request)
        check_origin(request)
        values = feedback_fields(await read_body(request, 10_000))
        exchange = exchanges.get(values["id"])
        thumb = THUMBS.get(values["thumb"])
        await asyncio.to_thread(
            save, feedback, values["id"], exchange, values["system"], thumb, values["audio"]
        )
        return {"saved": True}

    return app


def page_of(file: Path):
    """A route that gives one file of the page."""

    async def page(request: Request) -> FileResponse:
        check_host(request)
        return FileResponse(file, headers=PAGE_HEADERS)

    return page


async def lines(job: Job, name: str, exchange: Exchange) -> AsyncIterator[bytes]:
    """One line of JSON a result, as it comes; the exchange then holds what was answered."""
    yield encoded({"id": name})
    async with aclosing(job.each()) as results:
        try:
            async for result in results:
                if system := result.get("system"):
                    exchange.answers[system] = result["answer"]
                else:
                    exchange.transcript = result["transcript"]
                yield encoded(result)
        except UserError as error:
            yield encoded({"error": str(error)})
        except Exception:
            logger.exception("a recording could not be answered")
            yield encoded({"error": "a fault of the program; the terminal shows its cause"})


def encoded(value: dict) -> bytes:
    return f"{json.dumps(value)}\n".encode()


def feedback_fields(body: bytes) -> dict:
    """id, system, thumb (up, down, or none to take it back) and audio of a rating.

    Raises:
        Refusal: one is missing or has another type.
    """
    try:
        values = json.loads(body)
    except ValueError:
        raise Refusal(400, "the rating is no JSON") from None
    kinds = {"id": str, "system": str, "thumb": str, "audio": bool}
    if not isinstance(values, dict) or any(not isinstance(values.get(k), t) for k, t in kinds.items()):
        raise Refusal(400, f"a rating has the fields {', '.join(kinds)}")
    if values["thumb"] not in (*THUMBS, "none") or not re.fullmatch("[0-9a-f]{32}", values["id"]):
        raise Refusal(400, "a thumb is up, down or none, and an id is one that this page gave")
    return values
