"""Tables of questions that others wrote, row by row: tab-separated text and Parquet.

Names give the columns.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speech_rba.errors import UserError
from speech_rba.suites.kinds import KINDS, OTHER_COLUMNS

SOUND_COLUMNS = (
    *("audio", "file", "files", "path", "wav", "filename", "file name", "file path"),
    *("audio file", "audio filename", "audio path", "wav file", "wav filename", "wav path"),
)
# Names of columns by what they hold, in lower case; of several the first counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "questions", "query", "text", "transcript", "sentence"),
    "sound": SOUND_COLUMNS,
    "id": ("id",),
    "kwargs": ("kwargs",),
    "speaker": ("speaker", "speaker id"),
}
ANSWERS = re.compile(r"(answers?|references?|alias(es)?)( ?\d+)?")  # all such columns count


@dataclass(frozen=True)
class TableRow:
    """One row; `values` are its cells by a key of COLUMNS or a kind.

    `answers` has the list of all cells with answers. `number` is the line from 1, or in Parquet the row from
    0. `problem` says why the row cannot be used.
    """

    file: str
    number: int
    values: dict[str, Any]
    problem: str | None = None

    @property
    def where(self) -> str:
        return f"{self.file}, {'row' if self.file.lower().endswith('.parquet') else 'line'} {self.number}"


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 with or without a byte order mark, or in UTF-16 with one.

    Raises:
        UserError: the file cannot be read or is in another encoding.
    """
    advice = "save it as UTF-8 (in Excel: Unicode Text)"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}, is no {'UTF-16' if marked else 'UTF-8'}; {advice}") from error
    if "\0" in text:
        raise UserError(
            f"{path} is no UTF-8 but holds zero bytes, as UTF-16 or UTF-32 without a mark do; {advice}"
        )
    return text


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """(number of its first line, fields) of every row that is not blank.

    Quotes around a field, as Excel writes them, are removed and may enclose line ends. Where quotes are part
    of the text, as when it begins or ends with one, each line is a row.

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


def _rows(text: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB ends the reading
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
    """The numbers of the columns by what they hold: any number for `answers`, one for each other key.

    Columns of other names are ignored.

    Raises:
        UserError: several columns have the name.
    """
    plain = [re.sub(r"[\W_]+", " ", name).strip().casefold() for name in names]
    columns = {"answers": [i for i, name in enumerate(plain) if ANSWERS.fullmatch(name)]}
    names_by_content = COLUMNS | {kind: KINDS[kind].columns for kind in KINDS}
    for held, allowed in names_by_content.items():
        if name := next((name for name in allowed if name in plain), None):
            if plain.count(name) > 1:
                raise UserError(f"there are several columns {name!r}; rename all but one")
            columns[held] = [plain.index(name)]
    return {held: places for held, places in columns.items() if places}


def read_tsv(path: Path) -> Iterator[TableRow]:
    """The rows below the heading.

    Raises:
        UserError: the file cannot be read, the heading lacks a column, or nothing is below it.
    """
    rows = read_lines(path)
    (line, names), columns = rows[0], _heading(path, rows[0])
    if not {"prompt", "sound"} <= set(columns) or not KINDS.keys() & columns.keys():
        raise UserError(
            f"{path}, line {line}, must be a heading that names the columns, separated by tabs: question, "
            f"file, and answer (or {', '.join(OTHER_COLUMNS)}); it has "
            f"{', '.join(map(repr, filter(None, names)))}"
        )
    return _below(path, rows[1:], len(names), columns)


def read_transcripts(path: Path) -> Iterator[TableRow]:
    """The rows of a table of (file, text), with or without a heading.

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
    """The cells of one row by what their columns hold; all cells for answers."""
    return {
        held: [cells[i] for i in places] if held == "answers" else cells[places[0]]
        for held, places in columns.items()
    }


def read_parquet(path: Path) -> Iterator[TableRow]:
    """The rows of a Parquet file; a row with a cell that cannot be read has a problem.

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
