"""Reads a suite from a folder: its questions, how responses are scored, and its recordings.

A folder holds one of

- `questions.jsonl` of Question: questions of this project, to be synthesized as speech;
- `transcripts.tsv` (file, text, speaker): recordings that are only transcribed; the speaker may be missing;
- one other `.tsv` with a heading (question, answer, file), its files beside it or under wav/, as in
  LLaMA-Questions;
- `.parquet` files in VoiceBench's form (arXiv 2410.17196): `prompt`, `audio`, and columns to score by.

Columns are found by their names (suites/tables.py, suites/kinds.py). A cell of answers is one of them,
several separated by `|`, or a list as JSON or Python write it; any of them counts. `choice` is the letter of
the right option and takes precedence over an answer; `refuse` and `judged` are yes or no.
"""

from pathlib import Path

from speech_rba.errors import UserError
from speech_rba.records import RefusedRow
from speech_rba.suites.cells import BadRow
from speech_rba.suites.forms import rows_of
from speech_rba.suites.recordings import Recording, check_sound
from speech_rba.suites.tables import TableRow


def read_suite(folder: Path) -> tuple[list[Recording], list[RefusedRow]]:
    """The recordings of a folder, in its order, and the rows that cannot be scored, each with the cause.

    All sound is decoded. Ids are unique: of two rows with one id the second is refused.

    Raises:
        UserError: the folder has none of the forms above, a table cannot be read as a whole, or no row is
            left.
    """
    recordings: list[Recording] = []
    refused: list[RefusedRow] = []
    place_of_id: dict[str, str] = {}
    for row, to_recording in rows_of(folder):
        try:
            if row.problem:
                raise BadRow(row.problem)
            recording = to_recording(row)
            if first := place_of_id.get(recording.question.id):
                raise BadRow(f"its id {recording.question.id!r} is that of {first}; give each its own")
            if recording.sound is not None:
                check_sound(recording)
        except BadRow as cause:
            text = str(row.values.get("prompt") or row.values.get("id") or "")[:200]
            refused.append(RefusedRow(file=row.file, row=row.number, text=text, cause=str(cause)))
        else:
            recordings.append(recording)
            place_of_id[recording.question.id] = row.where
    if not recordings:
        raise UserError(_no_row_message(folder, refused))
    return recordings, refused


def _no_row_message(folder: Path, refused: list[RefusedRow]) -> str:
    if not refused:
        return f"{folder} has no row; add one for each question"
    causes = [f"{TableRow(row.file, row.row, {}).where}: {row.cause}" for row in refused[:3]]
    more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
    return f"no row of {folder} can be scored: {'; '.join(causes)}{more}; correct them, or remove the suite"
