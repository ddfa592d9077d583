"""Row types of the files that pass between stages, and how they are read and written.

A row is one line of JSON. Reading checks every field, so that a broken file is named with its line.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from speech_rba.errors import UserError

Condition = Literal[
    "clean",
    "white_noise",
    "pink_noise",
    "hum",
    "babble",
    "room",
    "telephone",
    "clipped",
    "hesitant",
    "muffled",
    "packet_loss",
]
ALIGNMENT = "alignment"  # the suite of synthesized rows; params.yaml names the others
RECORDED = "recorded"  # the voice and engine of a clip that nobody here made

Split = Literal["train", "validation", "test"]  # learned from; chosen by; reported
Task = Literal["instruction", "question", "constrained", "translation"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Record):
    temperature: float
    top_p: float
    max_new_tokens: int


class Instruction(Record):
    """What a response must do, under IFEval's name for it, checked by code (data/ifeval.py)."""

    name: str
    arguments: dict[str, str | int | list[str]]


class Constraint(Instruction):
    """An instruction and how a user says it; `{topic}` stands for the topic of the question before it."""

    says: str


class Row(Record):
    """One synthesized exchange: what a user says and what the teacher answers to its text."""

    id: str
    task: Task
    split: Split
    messages: list[Message]
    prompt: str
    completion: str
    completion_ended: bool  # by the teacher, not cut back to its whole sentences at the token limit
    teacher: str
    template_hash: str
    sampling: Sampling
    seed: int
    instructions: list[Instruction] = []  # that the prompt gives and the completion follows


class Rejected(Record):
    """A synthesized text that a filter refused, with the filter's name."""

    task: Task
    prompt: str
    completion: str
    reason: str


AttributeName = Literal["gender", "accent", "rate", "noise", "line"]
ATTRIBUTES = get_args(AttributeName)


class Attribute(Record):
    """How something is said, where a listener can tell and a reader cannot."""

    name: AttributeName
    value: str


class AttributeQuestion(Record):
    """A question about how it is said, with its answer for each value of the name."""

    name: AttributeName
    prompt: str
    answers: dict[str, str]


Choice = Literal["A", "B", "C", "D"]
CHOICES = get_args(Choice)


class Question(Record):
    """One question of a suite. A response with any of `answers` in it is right, unless one of `wrong` is in it too.

    A question with a `attribute` is asked in it. In place of answers it may have `instructions` to follow, the letter of
    the right `choice`, be a request to `refuse`, open and `judged` by the teacher, or a sentence with its
    `translations`.
    """

    id: str
    prompt: str
    answers: list[str]
    wrong: list[str] = []
    attribute: Attribute | None = None
    instructions: list[Instruction] = []
    choice: Choice | None = None
    refuse: bool = False
    judged: bool = False
    translations: list[str] = []


class Clip(Record):
    """One recording and every setting that made it. `path` is relative to the manifest's folder."""

    id: str
    row_id: str
    suite: str
    split: Split
    path: str
    transcript: str  # what is meant; `spoken` may hesitate
    spoken: str
    voice: str
    engine: str
    heldout_voice: bool
    rate: float
    pitch_semitones: float
    level_db: float
    condition: Condition
    heldout_condition: bool
    strength: dict[str, float]  # drawn for the condition, by its parameter's name
    strength_text: str = ""  # the strength with its unit, for readers; empty where the condition has none
    seed: int
    duration_s: float
    sha256: str


class Feature(Record):
    """What was measured on one clip.

    `heard` is the 1-best transcript of Whisper as it came, `wer` its word error rate (a fraction) and `mean_logprob`
    its confidence, all None for degraded training speech; `student_hypothesis` is the 1-best of the student's asr_adapter, None if
    it writes none down.
    """

    clip_id: str
    duration_s: float
    rms_db: float
    peak: float
    clipped_share: float
    silence_share: float
    words_per_s: float
    judge_hypothesis: str | None
    student_hypothesis: str | None
    wer: float | None
    mean_logprob: float | None


class Answer(Record):
    """One response of one system, with its scores by metric name.

    A system that reads the prompt has one answer a row: `clip_id` empty, `condition` "text". That is what the `text`
    system does, and an aligned one too, to tell whether alignment changed how it answers text. `hypothesis` is the
    student's transcript, None where it writes none or reads.
    """

    suite: str
    row_id: str
    clip_id: str
    system: str
    condition: str
    voice: str
    heldout_voice: bool
    snr_db: float | None
    judge_hypothesis: str
    response: str
    metrics: dict[str, float]
    split: Split = "test"
    prompt: str = ""
    hypothesis: str | None = None


class Quarantined(Record):
    """A clip that validation keeps out of training and evaluation, with every rule it breaks."""

    clip_id: str
    row_id: str
    transcript: str
    reasons: list[str]


class RefusedRow(Record):
    """A row of a suite that cannot be scored. `row` is the line of a text file from 1 on, the row of Parquet from 0."""

    file: str  # inside the suite's folder
    row: int
    text: str  # what it asks, as far as it can be read
    cause: str


R = TypeVar("R", bound=Record)


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """The rows of `path`; an empty file gives an empty list.

    Raises:
        UserError: a line is no valid row; the message names file, line and field.
    """
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(kind.model_validate_json(line))
            except ValidationError as error:
                raise UserError(f"{path}:{number} is no {kind.__name__}: {error}") from error
    return rows


def write_jsonl(path: Path, rows: Iterable[Record]) -> None:
    """Writes one JSON line a row; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.model_dump_json() + "\n")
    os.replace(partial, path)
