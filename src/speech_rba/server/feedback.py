"""What a person thought of an answer, one line of JSON a thumb; `synthesize.feedback` reads the file."""

import io
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from speech_rba.data.audio import read_audio
from speech_rba.data.flac import write_flac
from speech_rba.records import Feedback, Thumb
from speech_rba.server.refusal import Refusal

NUM_KEPT = 10  # exchanges that can still be rated; each keeps its upload in memory


@dataclass
class Exchange:
    """A recording as it was uploaded, and what came back."""

    upload: bytes
    transcript: str | None = None
    answers: dict[str, str] = field(default_factory=dict)


class Exchanges:
    """The last exchanges by their id."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Exchange] = OrderedDict()

    def add(self, name: str, upload: bytes) -> Exchange:
        exchange = self.kept[name] = Exchange(upload)
        while len(self.kept) > NUM_KEPT:
            self.kept.popitem(last=False)
        return exchange

    def get(self, name: str) -> Exchange:
        """Raises Refusal where it is not kept."""
        if name not in self.kept:
            raise Refusal(404, f"only the last {NUM_KEPT} recordings can be rated: ask again")
        return self.kept[name]


def save(file: Path, name: str, exchange: Exchange, system: str, thumb: Thumb | None, audio: bool) -> None:
    """`file` has one more line; the recording is written beside it only where `audio` says so.

    Raises:
        Refusal: this system has not answered.
    """
    if system not in exchange.answers:
        raise Refusal(400, f"{system!r} has not answered; there are {', '.join(exchange.answers)}")
    row = Feedback(
        id=name,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        transcript=exchange.transcript,
        system=system,
        answer=exchange.answers[system],
        answers=exchange.answers,
        thumb=thumb,
        audio=f"audio/{name}.flac" if audio else None,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    if row.audio:
        save_audio(file.parent / row.audio, exchange.upload)
    line = row.model_dump_json() + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a") as opened:
        opened.write(line)


def save_audio(path: Path, upload: bytes) -> None:
    """The recording as FLAC (16 kHz, mono), whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    write_flac(path, read_audio(io.BytesIO(upload), "the recording"))
