"""Tables of questions that others wrote, row by row: tab-separated text and Parquet, columns found by their names."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speech_rba.errors import UserError

COLUMNS = {  # how what a column holds may be called, in any case; of several the first counts
    "prompt": ("prompt", "question", "questions", "query", "text", "transcript", "sentence"),
    "sound": (
        "audio", "file", "files", "path", "wav", "filename", "file name", "file path", "audio file", "audio filename",
        "audio path", "wav file", "wav filename", "wav path",
    ),
    "id": ("id",),
    "choice": ("choice",),
    "refuse": ("refuse",),
    "judged": ("judged",),
    "translations": ("translations", "translation"),
    "instructions": ("instruction id list", "instructions"),
    "kwargs": ("kwargs",),
}  # fmt: skip
ANSWERS = re.compile(r"(answers?|references?|alias(es)?)( ?\d+)?")  # all of them count
SCORED_BY = ("answers", "choice", "refuse", "judged", "translations", "instructions")


class BadRow(Exception):
    """Its message says why one row of a table cannot be used."""


@dataclass(frozen=True)
class TableRow:
    """One row by what its columns hold: a key of COLUMNS, or `answers` with the cells of all that hold them.

    `number` is the line as an editor counts, or in Parquet the row from 0 on. `problem` says what is wrong with it.
    """

    file: str
    number: int
    values: dict[str, Any]
    problem: str | None = None

    @property
    def where(self) -> str:
        return f"{self.file}, {'row' if self.file.lower().endswith('.parquet') else 'line'} {self.number}"


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without byte order mark, or in UTF-16 with one, as Excel's Unicode Text.

    Raises:
        UserError: the file cannot be read or is in another encoding.
    """
    how = "save it as UTF-8 (in Excel: Unicode Text)"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}, is no {'UTF-16' if marked else 'UTF-8'}; {how}") from error
    if "\0" in text:
        raise UserError(
            f"{path} is no UTF-8 but holds zero bytes, as UTF-16 or UTF-32 without a mark do; {how}"
        )
    return text


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """(number, fields) of every row that is not blank, the number that of its first line.

    A field in quotes as Excel writes them loses them, and may hold line ends. Where quotes are not meant so, as when
    text begins or ends with one, each line is a row.

    Raises:
        UserError: the file cannot be read, or has no line.
    """
    text = read_text(path)
    try:
        rows = list(_rows(text, csv.QUOTE_MINIMAL))
        if any(len(fields) != len(rows[0][1]) for _, fields in rows if "\n" in "".join(fields)):
            rows = list(_rows(text, csv.QUOTE_NONE))
    except csv.Error:
        rows = list(_rows(text, csv.QUOTE_NONE))
    if not rows:
        raise UserError(
            f"{path} is empty; give it a heading (question, answer, file) and a line for each recording"
        )
    return [
        (number, [re.sub(r"\s*\n\s*", " ", _unquoted(field)) for field in fields]) for number, fields in rows
    ]


def _rows(text: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # else a field over 128 KiB ends the reading
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=quoting, strict=True)
    number = 1
    for row in reader:
        fields = [field.strip() for field in row]
        if any(fields):
            yield number, fields
        number = reader.line_num + 1


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"').strip() if whole else field


def columns_of(names: list[str]) -> dict[str, list[int]]:
    """Which columns hold what: `answers` any number of them, anything else one. Columns of other names are no matter.

    Raises:
        UserError: two columns of one name hold one thing.
    """
    plain = [re.sub(r"[\W_]+", " ", name).strip().casefold() for name in names]
    found = {"answers": [i for i, name in enumerate(plain) if ANSWERS.fullmatch(name)]}
    for held, allowed in COLUMNS.items():
        if name := next((name for name in allowed if name in plain), None):
            if plain.count(name) > 1:
                raise UserError(f"there are several columns {name!r}; rename all but one")
            found[held] = [plain.index(name)]
    return {held: places for held, places in found.items() if places}


def read_tsv(path: Path) -> Iterator[TableRow]:
    """The rows below the heading.

    Raises:
        UserError: the file cannot be read, the heading lacks a column, or nothing is below it.
    """
    rows = read_lines(path)
    (line, names), columns = rows[0], _heading(path, rows[0])
    if not {"prompt", "sound"} <= set(columns) or not set(SCORED_BY) & set(columns):
        raise UserError(
            f"{path}, line {line}, must be a heading that names the columns, parted by tabs: question, file, and answer"
            f" (or {', '.join(SCORED_BY[1:])}); it has {', '.join(map(repr, filter(None, names)))}"
        )
    return _below(path, rows[1:], len(names), columns)


def read_transcripts(path: Path) -> Iterator[TableRow]:
    """The rows of a table of (file, text), with a heading that says so or without.

    Raises:
        UserError: the file cannot be read, or holds nothing but a heading.
    """
    rows = read_lines(path)
    columns = _heading(path, rows[0])
    if {"prompt", "sound"} <= set(columns):
        return _below(path, rows[1:], len(rows[0][1]), columns)
    num_columns = max(2, *(len(fields) for _, fields in rows))
    return _below(path, rows, num_columns, {"sound": [0], "prompt": [1]})


def _heading(path: Path, row: tuple[int, list[str]]) -> dict[str, list[int]]:
    try:
        return columns_of(row[1])
    except UserError as error:
        raise UserError(f"{path}, line {row[0]}: {error}") from error


def _below(
    path: Path, rows: list[tuple[int, list[str]]], num_columns: int, columns: dict[str, list[int]]
) -> Iterator[TableRow]:
    if not rows:
        raise UserError(f"{path} has no line below its heading; add one for each recording")
    for number, fields in rows:
        surplus = "it has more columns than the heading" if any(fields[num_columns:]) else None
        cells = fields + [""] * (num_columns - len(fields))
        yield TableRow(path.name, number, _by_column(columns, cells), surplus)


def _by_column(columns: dict[str, list[int]], cells: Any) -> dict[str, Any]:
    """What the columns hold in one row; all cells of answers."""
    return {
        held: [cells[i] for i in places] if held == "answers" else cells[places[0]]
        for held, places in columns.items()
    }


def read_parquet(path: Path) -> Iterator[TableRow]:
    """The rows of a Parquet file; a cell that is no value of its type makes a problem of its row.

    Raises:
        UserError: it is no Parquet file, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = columns_of(file.schema_arrow.names)
            if missing := {"prompt": "prompt", "sound": "audio"}.keys() - columns.keys():
                lacking = ["audio" if held == "sound" else held for held in sorted(missing)]
                raise UserError(f"{path} has no column {lacking}; VoiceBench's form has prompt and audio")
            for batch in file.iter_batches(batch_size=64):
                for place in range(len(batch)):
                    yield _parquet_row(path.name, number, batch, place, columns)
                    number += 1
    except (OSError, pa.ArrowException) as error:
        cause = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read from row {number} on ({cause}); fetch or write it again"
        ) from error


def _parquet_row(file: str, number: int, batch: Any, place: int, columns: dict[str, list[int]]) -> TableRow:
    try:
        cells = {i: batch.column(i)[place].as_py() for places in columns.values() for i in places}
    except ValueError as error:  # text that is no UTF-8
        return TableRow(file, number, {}, f"a cell cannot be read ({error})")
    return TableRow(file, number, _by_column(columns, cells))
