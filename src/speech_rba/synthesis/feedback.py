"""The prompts of people's recordings that were rated on the page."""

import hashlib
from pathlib import Path

from speech_rba.errors import UserError
from speech_rba.records import Feedback, read_jsonl


def by_content(file: Path) -> str:
    """FILE#HASH: the file and its content, as `synthesize.feedback` names both."""
    return f"{file}#{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def feedback_prompts(named: str | None) -> list[str]:
    """The transcripts of the recordings with a thumb, up or down, each once, in their order.

    Raises:
        UserError: the file is missing, has another content than its name says, or a broken line.
    """
    if named is None:
        return []
    file = Path(named.rpartition("#")[0])
    if not file.exists():
        raise UserError(f"{file} of synthesize.feedback is missing: set it to null, or correct its name")
    if (current := by_content(file)) != named:
        raise UserError(f"{file} has changed: set synthesize.feedback to {current}, or restore the file")
    last = {(row.id, row.system): row for row in read_jsonl(file, Feedback)}
    transcripts = [row.transcript for row in last.values() if row.thumb and row.transcript]
    return list(dict.fromkeys(transcripts))
