"""Values of the cells of a table that others wrote: texts, lists, numbers, letters, and yes or no."""

import ast
import json
import math
import re
from typing import Any

from speech_rba.records import CHOICES, Choice


class BadRow(Exception):
    """Its message says why one row of a table cannot be used."""


def texts_of(cell: Any) -> list[str]:
    """The texts of a cell: one, several separated by `|`, a list of them, or answers as in TriviaQA and
    SQuAD.
    """
    if isinstance(cell, str):
        if re.fullmatch(r"\s*\[.*\]\s*", cell, re.DOTALL):
            return texts_of(parsed(cell))
        return [text.strip() for text in cell.split("|") if text.strip()]
    if isinstance(cell, dict):
        return [text for name in ("value", "text", "aliases") for text in texts_of(cell.get(name))]
    if isinstance(cell, list | tuple):
        return [str(text).strip() for part in cell for text in _texts_of_part(part)]
    cell = whole(cell)
    return [] if cell is None else [str(cell)]


def _texts_of_part(part: Any) -> list[str]:
    """The texts of an element of a list, where `|` separates nothing."""
    return [part] if isinstance(part, str) else texts_of(part)


def parsed(text: str) -> Any:
    """The value of `text`, written as in JSON or Python.

    Raises:
        BadRow: it is neither.
    """
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


def whole(value: Any) -> Any:
    """An integer for a whole float, None for NaN: a column of integers with gaps is read as floats."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def letter_of(cell: Any) -> Choice | None:
    """The letter of a choice, without brackets, full stop or colon.

    Raises:
        BadRow: the cell has something else.
    """
    letter = str(cell or "").strip(" ().:").upper()
    if not letter:
        return None
    for choice in CHOICES:
        if letter == choice:
            return choice
    raise BadRow(f"the choice {cell!r} is none of {', '.join(CHOICES)}")


def flag_of(name: str, cell: Any) -> bool:
    """The yes or no of a cell in the column `name`; an empty cell is no.

    Raises:
        BadRow: the cell has something else.
    """
    word = str(whole(cell) if cell is not None else "").strip().lower()
    if word in ("1", "true", "yes", "y", "x"):
        return True
    if word in ("", "0", "false", "no", "n", "none"):
        return False
    raise BadRow(f"{name} is {cell!r}; allowed are yes and no")
