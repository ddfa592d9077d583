"""Kinds of questions: for each kind the columns of its target in a table, and how the target is read.

The target is what responses are scored against. A new kind needs an entry in KINDS and one in the table of
scorers of evaluation/. A question may be of several kinds.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from speech_rba.data.ifeval import follows
from speech_rba.records import Instruction, Question
from speech_rba.suites.cells import BadRow, flag_of, letter_of, parsed, texts_of, whole

Values = dict[str, Any]  # the cells of a row, by what its columns hold
ARTICLES = {"a", "an", "the"}  # the scorer of answers drops them: alone they would be in every response


@dataclass(frozen=True)
class Kind:
    """`columns` are the names that a column of the kind may have; `read` gives the target, empty for other
    kinds.
    """

    columns: tuple[str, ...]
    read: Callable[[Values], Any]


def read_answers(values: Values) -> list[str]:
    """All texts of the columns with answers; none where the right answer is a choice."""
    if letter_of(values.get("choice")):
        return []
    return [text for cell in values.get("answers", []) for text in texts_of(cell)]


def read_instructions(values: Values) -> list[Instruction]:
    """IFEval's names and arguments; the arguments are a list of dicts, or text that holds one.

    Raises:
        BadRow: there are more or fewer arguments than names.
    """
    names, arguments = texts_of(values.get("instructions")), values.get("kwargs")
    if not names:
        return []
    arguments = parsed(arguments) if isinstance(arguments, str) and arguments.strip() else arguments
    arguments = [arguments] if isinstance(arguments, dict) else arguments or []
    if len(arguments) != len(names):
        raise BadRow(
            f"{len(names)} instructions ({', '.join(names)}) have {len(arguments)} kwargs; give each its own"
        )
    return [
        Instruction(name=name, arguments=_arguments(given))
        for name, given in zip(names, arguments, strict=True)
    ]


def _arguments(cell: Any) -> dict[str, Any]:
    arguments = parsed(cell) if isinstance(cell, str) and cell.strip() else cell or {}
    if not isinstance(arguments, dict):
        raise BadRow(f"the kwargs {arguments!r:.80} are no names with values")
    return {name: number for name, value in arguments.items() if (number := whole(value)) is not None}


KINDS = {
    "answers": Kind((), read_answers),  # any number of columns: tables.ANSWERS matches their names
    "choice": Kind(("choice",), lambda values: letter_of(values.get("choice"))),
    "refuse": Kind(("refuse",), lambda values: flag_of("refuse", values.get("refuse"))),
    "judged": Kind(("judged",), lambda values: flag_of("judged", values.get("judged"))),
    "translations": Kind(
        ("translations", "translation"), lambda values: texts_of(values.get("translations"))
    ),
    "instructions": Kind(("instruction id list", "instructions"), read_instructions),
}
OTHER_COLUMNS = tuple(name for name in KINDS if name != "answers")


def question_of(values: Values, id: str, default: dict[str, Any] | None = None) -> Question:
    """The question of a row, checked; `default` are the targets where no column has one.

    Raises:
        BadRow: a cell cannot be read, or the question cannot be scored.
    """
    prompt = prompt_of(values)
    try:
        targets = {name: kind.read(values) for name, kind in KINDS.items()}
        if not KINDS.keys() & values.keys():
            targets |= default or {}
        fields = {name: target for name, target in targets.items() if name in Question.model_fields}
        further = {name: target for name, target in targets.items() if name not in fields and target}
        question = Question(id=id, prompt=prompt, **fields, targets=further)
    except ValidationError as error:
        raise BadRow(first_error(error)) from error
    return checked(question)


def prompt_of(values: Values) -> str:
    """The prompt of a row.

    Raises:
        BadRow: it is missing or no text.
    """
    prompt = values["prompt"]
    if prompt is not None and not isinstance(prompt, str):
        raise BadRow(f"the question is no text: {prompt!r:.80}")
    if not prompt or not prompt.strip():
        raise BadRow("the question is missing")
    return prompt.strip()


def checked(question: Question) -> Question:
    """The question, which can be scored.

    Raises:
        BadRow: it cannot.
    """
    if not question.prompt.strip():
        raise BadRow("the question is missing")
    if unknown := question.targets.keys() - KINDS.keys():
        raise BadRow(f"there is no kind {', '.join(sorted(unknown))}; allowed are {', '.join(KINDS)}")
    if not any(question.target(name) for name in KINDS):
        raise BadRow(
            f"the answer is missing, and no other column says how it is scored ({', '.join(OTHER_COLUMNS)})"
        )
    for answer in question.answers + question.wrong:
        if not _has_words(answer):
            raise BadRow(
                f"the answer {answer!r} is articles or punctuation alone, and cannot be found; word it longer"
            )
    for instruction in question.instructions:
        try:
            follows("Any text.", instruction.name, instruction.arguments)
        except Exception as error:  # of any type: the arguments of the row are the cause
            raise BadRow(f"the instruction {instruction.name!r} cannot be checked: {error}") from error
    return question


def first_error(error: ValidationError) -> str:
    """The first field that is wrong, and why."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _has_words(answer: str) -> bool:
    text = re.sub(r"[-–—/]", " ", unicodedata.normalize("NFKD", answer.lower()))
    return not set(re.sub(r"[^\w\s]|_", "", text).split()) <= ARTICLES
