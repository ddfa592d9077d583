"""The forms of a suite's folder, and how each makes recordings of its rows."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from speech_rba.errors import UserError
from speech_rba.records import CHOICES, Question
from speech_rba.suites.cells import BadRow
from speech_rba.suites.kinds import checked, first_error, prompt_of, question_of
from speech_rba.suites.recordings import Recording, file_inside
from speech_rba.suites.tables import TableRow, read_parquet, read_text, read_transcripts, read_tsv

QUESTIONS, TRANSCRIPTS = "questions.jsonl", "transcripts.tsv"
SOURCE = "source.json"  # the dataset of a fetched folder (suites/hub.py)
SAFETY = "advbench"  # the subset of requests to refuse
UNSCORED = "bbh"  # the subset whose answers need a parser for each task
WRITTEN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")

Rows = Iterator[tuple[TableRow, Callable[[TableRow], Recording]]]


def rows_of(folder: Path) -> Rows:
    """Every row of the folder's tables, and the function that makes a recording of it.

    Raises:
        UserError: the folder has no known form.
    """
    tables = _tables(folder)
    if tables[0].name == QUESTIONS:
        return ((row, _written) for row in _lines(tables[0]))
    if tables[0].name.lower().endswith(".parquet"):
        rows, subset = (row for table in tables for row in read_parquet(table)), _subset(folder)
        return ((row, partial(_voicebench, subset, f"{number:05d}")) for number, row in enumerate(rows))
    if tables[0].name == TRANSCRIPTS:
        return ((row, partial(_transcribed, folder)) for row in read_transcripts(tables[0]))
    return ((row, partial(_spoken, folder)) for row in read_tsv(tables[0]))


def _tables(folder: Path) -> list[Path]:
    """The files of the one form that the folder has."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; name one, and fetch one of the hub by `speech-rba fetch-suite`"
        )
    files = sorted(path for path in folder.iterdir() if path.is_file())
    files = [file for file in files if not file.name.startswith((".", "~"))]
    by_form = [
        [file for file in files if file.name.lower().endswith(".tsv")],
        [file for file in files if file.name.lower().endswith(".parquet")],
        [file for file in files if file.name == QUESTIONS],
    ]
    forms = [tables for tables in by_form if tables]
    if len(forms) != 1 or len(by_form[0]) > 1:
        names = ", ".join(file.name for tables in forms for file in tables) or "none of them"
        raise UserError(
            f"{folder} is no suite: it needs {QUESTIONS}, {TRANSCRIPTS} (file, text, speaker), one .tsv "
            "(question, answer, file) beside its recordings, or VoiceBench's .parquet files, and nothing "
            f"else of these; it has {names}"
        )
    return forms[0]


def _lines(path: Path) -> Iterator[TableRow]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield TableRow(path.name, number, {"prompt": line.strip()})


def _written(row: TableRow) -> Recording:
    try:
        question = Question.model_validate_json(row.values["prompt"])
    except ValidationError as error:
        raise BadRow(f"it is no question: {first_error(error)}") from error
    if not WRITTEN_ID.fullmatch(question.id):  # it becomes the name of a file
        raise BadRow(
            f"the id {question.id!r:.80} must be letters, digits, '.', '_' and '-', at most 60 of them"
        )
    return Recording(checked(question), None, row.where)


def _transcribed(folder: Path, row: TableRow) -> Recording:
    file, name = file_inside(folder, row.values["sound"], ["", "wav/"])
    question = Question(id=name, prompt=prompt_of(row.values), answers=[])
    return Recording(question, file, name, row.values.get("speaker") or "")


def _spoken(folder: Path, row: TableRow) -> Recording:
    file, name = file_inside(folder, row.values["sound"], ["wav/", ""])
    question = question_of(row.values, row.values.get("id") or name)
    return Recording(question, file, name, row.values.get("speaker") or "")


def _voicebench(subset: str, number: str, row: TableRow) -> Recording:
    """Its id is its number over all files.

    Without a column to score by, the subset says whether to refuse.
    """
    default = {"refuse": True} if subset.startswith(SAFETY) else {"judged": True}
    question = question_of(row.values, number, default)
    if len(question.answers) == 1 and question.answers[0] in CHOICES:
        question = question.model_copy(update={"choice": question.answers[0], "answers": []})
    sound = row.values["sound"]
    content = sound.get("bytes") if isinstance(sound, dict) else sound
    if not isinstance(content, bytes) or not content:
        raise BadRow("it holds no sound, at most the name of a file; store the bytes in it")
    return Recording(question, content, row.where)


def _subset(folder: Path) -> str:
    """The name of VoiceBench's subset, by the fetched dataset or by the folder's name.

    Raises:
        UserError: it cannot be scored.
    """
    name, source = folder.name, folder / SOURCE
    if source.exists():
        try:
            name = str(json.loads(read_text(source))["subset"]).rpartition("/")[2]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{source} does not say which subset was fetched; fetch it again, or remove it"
            ) from error
    if name.startswith(UNSCORED):
        raise UserError(f"{folder} cannot be scored here: name another subset than {UNSCORED}")
    return name
