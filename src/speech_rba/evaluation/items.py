"""The held-out clips of synthesized rows and of suites, with the output of the features stage."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.hypotheses import load_prompts
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import Clip, Feature, Question, Row, Split, read_jsonl

NO_QUESTION = Question(id="", prompt="", answers=[])  # of a synthesized row


@dataclass(frozen=True)
class Item:
    """One clip to answer.

    `prompt` is the written prompt, `spoken` the prompt that the student makes of the audio. `reference` is
    the teacher's answer to a synthesized row, empty for a suite; `question` is that of a suite.
    """

    suite: str
    split: Split
    row_id: str
    clip_id: str
    condition: str
    voice: str
    heldout_voice: bool
    snr_db: float | None
    duration_s: float
    prompt: str
    judge_hypothesis: str
    student_hypothesis: str | None
    spoken: SoftTokens
    reference: str
    question: Question


@dataclass(frozen=True)
class Inputs:
    """The output folders of the stages before."""

    rows: Path
    features: Path
    suites: Path
    suite_features: Path
    validation: Path


def load_items(student: SpeechStudent, inputs: Inputs, suites: Iterable[str]) -> list[Item]:
    """Every accepted held-out clip: first those of rows, then those of each suite."""
    references = {row.id: row.completion for row in read_jsonl(inputs.rows / "rows.jsonl", Row)}
    accepted = [c for c in read_jsonl(inputs.validation / "accepted.jsonl", Clip) if c.split != "train"]
    items = [
        item_of(clip, feature, spoken, references[clip.row_id], NO_QUESTION)
        for clip, feature, spoken in with_features(student, inputs.features, accepted)
    ]
    suite_clips = read_jsonl(inputs.validation / "accepted_suites.jsonl", Clip)
    for suite in suites:
        questions = {q.id: q for q in read_jsonl(inputs.suites / suite / "questions.jsonl", Question)}
        clips = [clip for clip in suite_clips if clip.suite == suite]
        items += [
            item_of(clip, feature, spoken, "", questions[clip.row_id])
            for clip, feature, spoken in with_features(student, inputs.suite_features / suite, clips)
        ]
    return items


def with_features(
    student: SpeechStudent, features: Path, clips: list[Clip]
) -> Iterator[tuple[Clip, Feature, SoftTokens]]:
    """Each clip with its measurements and the prompt that the student makes of it."""
    table = {feature.clip_id: feature for feature in read_jsonl(features / "table.jsonl", Feature)}
    return zip(clips, [table[clip.id] for clip in clips], load_prompts(student, features, clips), strict=True)


def item_of(clip: Clip, feature: Feature, spoken: SoftTokens, reference: str, question: Question) -> Item:
    assert feature.judge_hypothesis is not None, "only training clips have no judge's transcript"
    return Item(
        suite=clip.suite,
        split=clip.split,
        row_id=clip.row_id,
        clip_id=clip.id,
        condition=clip.condition,
        voice=clip.voice,
        heldout_voice=clip.heldout_voice,
        snr_db=clip.strength.get("snr_db"),
        duration_s=clip.duration_s,
        prompt=clip.transcript,
        judge_hypothesis=feature.judge_hypothesis,
        student_hypothesis=feature.student_hypothesis,
        spoken=spoken,
        reference=reference,
        question=question,
    )


def first_of_rows(items: list[Item]) -> list[Item]:
    """One item of each row, the first: the prompt of a row is read once."""
    first: dict[tuple[str, str], Item] = {}
    for item in items:
        first.setdefault((item.suite, item.row_id), item)
    return list(first.values())


def questions_by_row(items: list[Item]) -> dict[tuple[str, str], Question]:
    """The question of each (suite, row id)."""
    return {(item.suite, item.row_id): item.question for item in items}
