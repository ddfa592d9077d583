"""Suites to be scored: what a folder asks and how each answer is judged, and the recordings, row by row.

A folder holds one of

- `questions.jsonl` of Question: written for this project, and to be voiced;
- `transcripts.tsv` (file, text): recordings that are only hypotheses, with nothing to answer;
- one other `.tsv` with a heading (question, answer, file), its files beside it or under wav/, as LLaMA-Questions;
- `.parquet` files in VoiceBench's form (arXiv 2410.17196): `prompt`, `audio`, and what its subset is scored by.

Columns are found by their names (data/tables.py). A cell of answers is one of them, several parted by `|`, or a list
as JSON or Python write it; any of them counts. `choice` is the letter of the right option and stands before an answer;
`refuse` and `judged` are yes or no.
"""

import ast
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from speech_rba.data.audio import SAMPLE_RATE, read_audio
from speech_rba.data.ifeval import follows
from speech_rba.errors import UserError
from speech_rba.records import CHOICES, Instruction, Question, RefusedRow
from speech_rba.suites.tables import (
    SCORED_BY,
    BadRow,
    TableRow,
    read_parquet,
    read_text,
    read_transcripts,
    read_tsv,
)

QUESTIONS, TRANSCRIPTS = "questions.jsonl", "transcripts.tsv"
SOURCE = "source.json"  # where a fetched folder came from (data/hub.py)
SAFETY = "advbench"  # the subset of requests to refuse
UNSCORED = "bbh"  # the subset whose answers are parsed task by task
OWN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
MIN_S, MAX_S = 0.1, 30.0  # no word is shorter, and Whisper's window holds no more
SILENCE_DB = -60.0  # relative to full scale (RMS), where no part stands out
STANDS_OUT_DB = (
    6.0  # the louder parts over the quieter, 50 ms each; of even noise it is below 1, of speech above 20
)
ARTICLES = {
    "a",
    "an",
    "the",
}  # no words of an answer, by evaluation/metrics.py: they would stand in every response


@dataclass(frozen=True)
class Recording:
    """A question, without anything right or wrong to say where it is only to be hypotheses, and its sound.

    `sound` is a file, the bytes of one, or None where the question is to be voiced.
    """

    question: Question
    sound: Path | bytes | None
    name: str  # for errors

    def read(self) -> np.ndarray:
        """float32 `(samples,)`, 16 kHz."""
        return read_audio(io.BytesIO(self.sound) if isinstance(self.sound, bytes) else self.sound, self.name)


def read_suite(folder: Path) -> tuple[list[Recording], list[RefusedRow]]:
    """What a folder asks, in its order, and the rows that cannot be scored, each with the cause. All sound is decoded.

    Ids are unique: of two rows with one id the second is refused.

    Raises:
        UserError: the folder has none of the forms above, a table cannot be read as a whole, or no row is left.
    """
    recordings: list[Recording] = []
    refused: list[RefusedRow] = []
    seen: dict[str, str] = {}
    for row, read in _rows(folder):
        try:
            if row.problem:
                raise BadRow(row.problem)
            recording = read(row)
            if first := seen.get(recording.question.id):
                raise BadRow(f"its id {recording.question.id!r} is that of {first}; give each its own")
            if recording.sound is not None:
                _check_sound(recording)
        except BadRow as cause:
            text = str(row.values.get("prompt") or row.values.get("id") or "")[:200]
            refused.append(RefusedRow(file=row.file, row=row.number, text=text, cause=str(cause)))
        else:
            recordings.append(recording)
            seen[recording.question.id] = row.where
    if not recordings:
        raise UserError(_nothing_left(folder, refused))
    return recordings, refused


def _nothing_left(folder: Path, refused: list[RefusedRow]) -> str:
    if not refused:
        return f"{folder} has no row; add one for each question"
    causes = [f"{TableRow(row.file, row.row, {}).where}: {row.cause}" for row in refused[:3]]
    more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
    return f"no row of {folder} can be scored: {'; '.join(causes)}{more}; mend the folder, or leave it out"


def _rows(folder: Path) -> Iterator[tuple[TableRow, Callable[[TableRow], Recording]]]:
    """Every row of the folder's tables, and what makes a recording of it."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; name one, and fetch one of the hub by `speech-rba fetch-suite`"
        )
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith((".", "~"))
    )
    forms = {end: [file for file in files if file.name.lower().endswith(end)] for end in (".tsv", ".parquet")}
    forms[QUESTIONS] = [file for file in files if file.name == QUESTIONS]
    given = {form: found for form, found in forms.items() if found}
    if len(given) != 1 or len(forms[".tsv"]) > 1:
        tables = ", ".join(file.name for found in given.values() for file in found) or "none of them"
        raise UserError(
            f"{folder} is no suite: it needs {QUESTIONS}, {TRANSCRIPTS} (file, text), one .tsv (question, answer, file)"
            f" beside its recordings, or VoiceBench's .parquet files, and nothing else of these; it has {tables}"
        )
    [(form, tables)] = given.items()
    if form == QUESTIONS:
        return ((row, _own) for row in _lines(tables[0]))
    if form == ".parquet":
        rows, subset = (row for table in tables for row in read_parquet(table)), _subset(folder)
        return ((row, partial(_voicebench, subset, f"{number:05d}")) for number, row in enumerate(rows))
    if tables[0].name == TRANSCRIPTS:
        return ((row, partial(_transcribed, folder)) for row in read_transcripts(tables[0]))
    return ((row, partial(_asked, folder)) for row in read_tsv(tables[0]))


# ---- rows of each form


def _lines(path: Path) -> Iterator[TableRow]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield TableRow(path.name, number, {"prompt": line.strip()})


def _own(row: TableRow) -> Recording:
    try:
        question = Question.model_validate_json(row.values["prompt"])
    except ValidationError as error:
        raise BadRow(f"it is no question: {_first(error)}") from error
    if not OWN_ID.fullmatch(question.id):  # its clips are files of that name
        raise BadRow(
            f"the id {question.id!r:.80} must be letters, digits, '.', '_' and '-', at most 60 of them"
        )
    return Recording(_checked(question), None, row.where)


def _transcribed(folder: Path, row: TableRow) -> Recording:
    file, name = _inside(folder, row.values["sound"], ["", "wav/"])
    return Recording(Question(id=name, prompt=_prompt(row), answers=[]), file, name)


def _asked(folder: Path, row: TableRow) -> Recording:
    file, name = _inside(folder, row.values["sound"], ["wav/", ""])
    return Recording(_scored(row, row.values.get("id") or name, {}), file, name)


def _voicebench(subset: str, number: str, row: TableRow) -> Recording:
    """Its id is its number over all files. Columns say how it is scored; of requests to refuse the subset's name."""
    unscored = {"refuse": True} if subset.startswith(SAFETY) else {"judged": True}
    question = _scored(row, number, {} if set(SCORED_BY) & set(row.values) else unscored)
    if len(question.answers) == 1 and question.answers[0] in CHOICES:
        question = question.model_copy(update={"choice": question.answers[0], "answers": []})
    sound = row.values["sound"]
    content = sound.get("bytes") if isinstance(sound, dict) else sound
    if not isinstance(content, bytes) or not content:
        raise BadRow("it holds no sound, at most the name of a file; store the bytes in it")
    return Recording(question, content, row.where)


def _subset(folder: Path) -> str:
    """The name of VoiceBench's subset: that which was fetched, or the folder's.

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


# ---- how a row is scored


def _scored(row: TableRow, id: str, otherwise: dict[str, bool]) -> Question:
    """The question of a row; `otherwise` says how it is scored where no column does."""
    values = row.values
    choice = _letter(values.get("choice"))
    try:
        question = Question(
            id=id,
            prompt=_prompt(row),
            answers=[] if choice else [text for cell in values.get("answers", []) for text in _texts(cell)],
            choice=choice,
            instructions=_instructions(_texts(values.get("instructions")), values.get("kwargs")),
            translations=_texts(values.get("translations")),
            **otherwise or {name: _flag(name, values.get(name)) for name in ("refuse", "judged")},
        )
    except ValidationError as error:
        raise BadRow(_first(error)) from error
    return _checked(question)


def _checked(question: Question) -> Question:
    if not question.prompt.strip():
        raise BadRow("the question is missing")
    if not any(getattr(question, name) for name in SCORED_BY):
        raise BadRow(
            f"the answer is missing, and nothing else says how it is scored ({', '.join(SCORED_BY[1:])})"
        )
    for answer in question.answers + question.wrong:
        if not _has_words(answer):
            raise BadRow(
                f"the answer {answer!r} is articles or punctuation alone, and cannot be found; word it longer"
            )
    for instruction in question.instructions:
        try:
            follows("Any text.", instruction.name, instruction.arguments)
        except Exception as error:  # whatever a check makes of the row's arguments, they are what is wrong
            raise BadRow(f"the instruction {instruction.name!r} cannot be checked: {error}") from error
    return question


def _has_words(answer: str) -> bool:
    text = re.sub(r"[-–—/]", " ", unicodedata.normalize("NFKD", answer.lower()))
    return not set(re.sub(r"[^\w\s]|_", "", text).split()) <= ARTICLES


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}".removeprefix(": ")


def _prompt(row: TableRow) -> str:
    prompt = row.values["prompt"]
    if prompt is not None and not isinstance(prompt, str):
        raise BadRow(f"the question is no text: {prompt!r:.80}")
    if not prompt or not prompt.strip():
        raise BadRow("the question is missing")
    return prompt.strip()


def _texts(cell: Any) -> list[str]:
    """The texts of a cell: one, several parted by `|`, a list of them, or TriviaQA's and SQuAD's answers."""
    if isinstance(cell, str):
        if re.fullmatch(r"\s*\[.*\]\s*", cell, re.DOTALL):
            return _texts(_literal(cell))
        return [text.strip() for text in cell.split("|") if text.strip()]
    if isinstance(cell, dict):
        return [text for name in ("value", "text", "aliases") for text in _texts(cell.get(name))]
    if isinstance(cell, list | tuple):
        return [
            str(text).strip() for part in cell for text in ([part] if isinstance(part, str) else _texts(part))
        ]
    cell = _whole(cell)
    return [] if cell is None else [str(cell)]


def _literal(text: str) -> Any:
    """What JSON or Python write as `text`."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        if re.search(r"""['"]\s+['"]""", text):  # a list as numpy prints it; Python would join its texts
            raise ValueError("no commas")
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadRow(f"{text!r:.80} is no list as JSON or Python write it") from error


def _whole(value: Any) -> Any:
    """Numbers as they were before a table with gaps made floats of them; None for NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _letter(cell: Any) -> str | None:
    letter = str(cell or "").strip(" ().:").upper()
    if letter and letter not in CHOICES:
        raise BadRow(f"the choice {cell!r} is none of {', '.join(CHOICES)}")
    return letter or None


def _flag(name: str, cell: Any) -> bool:
    said = str(_whole(cell) if cell is not None else "").strip().lower()
    if said in ("1", "true", "yes", "y", "x"):
        return True
    if said in ("", "0", "false", "no", "n", "none"):
        return False
    raise BadRow(f"{name} is {cell!r}; allowed are yes and no")


def _instructions(names: list[str], given: Any) -> list[Instruction]:
    """IFEval's names and arguments; these may be a list, or text of one, of dicts or their texts."""
    if not names:
        return []
    given = _literal(given) if isinstance(given, str) and given.strip() else given
    given = [given] if isinstance(given, dict) else given or []
    if len(given) != len(names):
        raise BadRow(
            f"{len(names)} instructions ({', '.join(names)}) have {len(given)} kwargs; give each its own"
        )
    return [Instruction(name=name, arguments=_arguments(of)) for name, of in zip(names, given, strict=True)]


def _arguments(given: Any) -> dict[str, Any]:
    given = _literal(given) if isinstance(given, str) and given.strip() else given or {}
    if not isinstance(given, dict):
        raise BadRow(f"the kwargs {given!r:.80} are no names with values")
    return {name: whole for name, value in given.items() if (whole := _whole(value)) is not None}


# ---- sound


def _inside(folder: Path, name: str, places: list[str]) -> tuple[Path, str]:
    """The file of that name, in the first of `places` that has one, and its path from the folder."""
    if not name:
        raise BadRow("the file is missing")
    candidates = [place + name for place in places]
    try:
        inside = [path for path in candidates if (folder / path).resolve().is_relative_to(folder.resolve())]
        found = next((path for path in inside if (folder / path).is_file()), None)
    except (OSError, ValueError) as error:
        raise BadRow(f"{name!r:.80} is no name of a file ({error})") from error
    if found is None and inside != candidates:
        raise BadRow(f"the file {name} lies outside the folder; allowed are files inside it")
    if found is None:
        raise BadRow(f"the file {name} is not there")
    return folder / found, found


def _check_sound(recording: Recording) -> None:
    try:
        audio = recording.read()
    except UserError as error:
        raise BadRow(str(error)) from error
    seconds = len(audio) / SAMPLE_RATE
    if not MIN_S <= seconds <= MAX_S:
        raise BadRow(f"the recording has {seconds:.2f} s; allowed are {MIN_S:g} to {MAX_S:g} s")
    if silent(audio):
        raise BadRow(f"the recording is silent: even, and below {SILENCE_DB:g} dB of full scale")


def silent(audio: np.ndarray) -> bool:
    """Whether `(samples,)`, at least 50 ms, holds zeros, a click or faint noise alone; quiet speech stands out."""
    frame = SAMPLE_RATE // 20
    powers = np.square(audio[: len(audio) // frame * frame].astype(float)).reshape(-1, frame).mean(axis=1)
    quiet, loud = 10 * np.log10(np.percentile(powers, [20, 90]) + 1e-18)
    return bool(10 * np.log10(powers.mean() + 1e-18) < SILENCE_DB and loud - quiet < STANDS_OUT_DB)
