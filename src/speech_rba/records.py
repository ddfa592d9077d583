"""Row types of the files that stages exchange, and how they are read and written.

A row is one line of JSON. Reading checks every field, and an error names the file and the line.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from speech_rba.errors import UserError

Condition = str  # a recording condition: a key of voice.conditions in params.yaml
ALIGNMENT = "alignment"  # the suite of synthesized rows; params.yaml names the others
RECORDED = "recorded"  # the voice and engine of a clip that is no synthesized speech

Split = Literal["train", "validation", "test"]  # for training, for selection, for reported scores
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
    """A verifiable instruction with IFEval's name and arguments; data/ifeval.py checks it."""

    name: str
    arguments: dict[str, str | int | list[str]]


class Constraint(Instruction):
    """An instruction and its wording in a prompt; `{topic}` is replaced by the topic of the question."""

    says: str


class Row(Record):
    """One synthesized exchange: a user's prompt and the teacher's answer to its text."""

    id: str
    task: Task
    split: Split
    messages: list[Message]
    prompt: str
    completion: str
    completion_ended: bool  # False: cut at the token limit, after its last whole sentence
    teacher: str
    template_hash: str
    sampling: Sampling
    seed: int
    instructions: list[Instruction] = []  # in the prompt; the completion follows them


class Rejected(Record):
    """A synthesized text that a filter rejected, with the name of the filter."""

    task: Task
    prompt: str
    completion: str
    reason: str


AttributeName = Literal["gender", "accent", "rate", "noise", "line"]
ATTRIBUTES = get_args(AttributeName)


class Attribute(Record):
    """A paralinguistic attribute of speech, which its transcript does not show."""

    name: AttributeName
    value: str


class AttributeQuestion(Record):
    """A question about an attribute, with its answer for each value of the attribute."""

    name: AttributeName
    prompt: str
    answers: dict[str, str]


Choice = Literal["A", "B", "C", "D"]
CHOICES = get_args(Choice)


class Question(Record):
    """One question of a suite, with what its responses are scored against.

    A response that contains any of `answers` is right, unless it also contains one of `wrong`. Other kinds
    have `instructions` to follow, the letter of the right `choice`, a request to `refuse`, an open question
    that is `judged` by the teacher's likelihood, or a sentence with its `translations`. Further kinds stand
    in `targets` by their name, so that a new kind needs no field here. The speech of a question with an
    `attribute` has that attribute.
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
    targets: dict[str, str | int | list[str]] = {}

    def target(self, kind: str) -> object:
        """What responses are scored against under the kind; empty or None for a question of other kinds."""
        return getattr(self, kind) if kind in Question.model_fields else self.targets.get(kind)


class Clip(Record):
    """One recording and every setting of its synthesis. `path` is relative to the folder of the manifest."""

    id: str
    row_id: str
    suite: str
    split: Split
    path: str
    transcript: str  # the reference; `spoken` may contain hesitations
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
    """The measures of one clip.

    `judge_hypothesis` is the 1-best transcript of the unadapted Whisper, `wer` its word error rate (a
    fraction) and `mean_logprob` its mean token log-probability; all three are None for degraded training
    speech. `student_hypothesis` is the student's 1-best transcript, None for a student that gives none.
    `no_speech` says why the student set the clip apart (model/no_speech.py), and then that transcript is
    empty; `loop_cut` whether the decoding repeated itself and was cut there.
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
    no_speech: str | None = None
    loop_cut: bool = False


class Answer(Record):
    """One response of one system, with its scores by metric name.

    An answer to the prompt as text has an empty `clip_id` and the `condition` "text": all answers of the
    `text` system, and one answer a row of aligned systems, which measures how alignment changes answers to
    text. `hypothesis` is the student's transcript, None without one.
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
    """A clip that is excluded from training and evaluation, with every rule that it breaks."""

    clip_id: str
    row_id: str
    transcript: str
    reasons: list[str]


class RefusedRow(Record):
    """A row of a suite that cannot be scored.

    `row` is the line of a text file from 1, or the row of Parquet from 0.
    """

    file: str  # inside the suite's folder
    row: int
    text: str  # its prompt, as far as it can be read
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
    """`path` has one line of JSON for each row; it appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.model_dump_json() + "\n")
    os.replace(partial, path)
