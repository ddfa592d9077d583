"""A page that records spoken questions into the folder of a suite: `speech-rba record`.

The folder has questions.tsv and wav/, as suites/read.py reads them. The table lists the questions whose
recording is there, and each file appears whole, so that a session goes on where it stopped.
"""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from speech_rba.data.audio import SAMPLE_RATE
from speech_rba.data.flac import write_flac
from speech_rba.errors import UserError
from speech_rba.records import Question, read_jsonl
from speech_rba.server.guards import check_host, check_origin, read_body
from speech_rba.server.refusal import Refusal, refused
from speech_rba.suites.cells import BadRow
from speech_rba.suites.forms import QUESTIONS, WRITTEN_ID
from speech_rba.suites.recordings import Recording, check_sound

NUM_QUESTIONS = 10
MAX_UPLOAD_BYTES = 20_000_000  # 30 s of uncompressed stereo at 48 kHz are 12 MB
TABLE, SOUND = "questions.tsv", "wav"
PAGE = Path(__file__).parent / "static/record.html"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "media-src 'self'; img-src data:"
)


@dataclass(frozen=True)
class Session:
    """The questions to record, in order, and the folder of their recordings."""

    folder: Path
    questions: list[Question]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def file(self, question: Question) -> Path:
        return self.folder / SOUND / f"{question.id}.flac"

    def recorded(self) -> list[Question]:
        return [question for question in self.questions if self.file(question).exists()]


def choose_questions(suite: Path) -> list[Question]:
    """NUM_QUESTIONS questions with answers, evenly spread over those of a suite's folder.

    Raises:
        UserError: the folder has too few.
    """
    path = suite / QUESTIONS
    if not path.exists():
        raise UserError(f"{path} is missing: run the command in the project's folder")
    # a table has no column for wrong answers and attributes
    simple = [q for q in read_jsonl(path, Question) if q.answers and not q.wrong and not q.attribute]
    simple = [question for question in simple if WRITTEN_ID.fullmatch(question.id)]
    if len(simple) < NUM_QUESTIONS:
        raise UserError(f"{path} has {len(simple)} questions with answers; {NUM_QUESTIONS} are needed")
    return [simple[place * len(simple) // NUM_QUESTIONS] for place in range(NUM_QUESTIONS)]


def open_session(folder: Path, questions: list[Question]) -> Session:
    """The session in `folder`, created if missing.

    Raises:
        UserError: the folder cannot be written, or holds something else.
    """
    try:
        present = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if others := sorted(name for name in present - {TABLE, SOUND} if not name.startswith(".")):
            raise UserError(f"{folder} holds {', '.join(others[:3])}: name a new folder for the recordings")
        (folder / SOUND).mkdir(parents=True, exist_ok=True)
        session = Session(folder, questions)
        if session.recorded():  # a session that was killed may have left out the last row
            write_whole(folder / TABLE, table_of(session).encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    return session


def save_recording(session: Session, question: Question, content: bytes) -> float:
    """The seconds of a recording, which is now in the folder and in its table.

    Raises:
        BadRow: it cannot be decoded, is silent, too short or too long.
    """
    recording = Recording(question, content, "the recording")
    check_sound(recording)
    samples = recording.read()
    with session.lock:
        write_flac(session.file(question), samples)
        write_whole(session.folder / TABLE, table_of(session).encode())
    return len(samples) / SAMPLE_RATE


def table_of(session: Session) -> str:
    """The suite's table of the questions that are recorded."""
    rows = [(q.prompt, "|".join(q.answers), session.file(q).name) for q in session.recorded()]
    return "".join("\t".join(row) + "\n" for row in [("question", "answer", "file"), *rows])


def write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def build_app(session: Session, next_step: str) -> FastAPI:
    """The page and what it calls; `next_step` is what to do with a complete folder."""
    app = FastAPI(openapi_url=None)
    add_guard(app)
    add_recordings(app, session)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    @app.get("/questions")
    def questions() -> JSONResponse:
        done = {question.id for question in session.recorded()}
        rows = [{"id": q.id, "prompt": q.prompt, "recorded": q.id in done} for q in session.questions]
        return JSONResponse({"questions": rows, "next_step": next_step})

    return app


def add_guard(app: FastAPI) -> None:
    """Requests of other sites are refused, and the page loads nothing from outside."""

    @app.middleware("http")
    async def guard(request: Request, call_next):
        try:
            check_host(request)
            check_origin(request)
        except Refusal as refusal:
            return refused(refusal)
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return refused(refusal)


def add_recordings(app: FastAPI, session: Session) -> None:
    """`/recordings/ID` gives a recording and takes a new one."""
    by_id = {question.id: question for question in session.questions}

    def question_called(id: str) -> Question:
        if id not in by_id:
            raise Refusal(404, f"there is no question {id!r}")
        return by_id[id]

    @app.get("/recordings/{id}")
    def recording(id: str) -> FileResponse:
        file = session.file(question_called(id))
        if not file.exists():
            raise Refusal(404, f"question {id} is not recorded yet")
        return FileResponse(file, media_type="audio/flac", headers={"Cache-Control": "no-store"})

    @app.put("/recordings/{id}")
    async def record(id: str, request: Request) -> JSONResponse:
        question, content = question_called(id), await read_body(request, MAX_UPLOAD_BYTES)
        try:
            duration_s = await run_in_threadpool(save_recording, session, question, content)
        except BadRow as problem:
            raise Refusal(400, f"{problem}; record it again", code="recording") from problem
        return JSONResponse({"duration_s": duration_s})
