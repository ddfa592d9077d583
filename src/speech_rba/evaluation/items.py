"""What is evaluated: the held-out clips of synthesized rows and of suites, as the features stage heard them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.hypotheses import load_prompts
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import Clip, Feature, Question, Row, Split, read_jsonl


@dataclass(frozen=True)
class Item:
    """One clip to answer: `reference` is the teacher's answer to a synthesized row, `question` that of a suite."""

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


def load_items(
    student: SpeechStudent, rows: Path, features: Path, suites: Path, suite_features: Path, validation: Path,
    names: Iterable[str],
) -> list[Item]:  # fmt: skip
    """Every accepted held-out clip: of the rows, then of each suite."""
    nothing = Question(id="", prompt="", answers=[])
    references = {row.id: row.completion for row in read_jsonl(rows / "rows.jsonl", Row)}
    accepted = [c for c in read_jsonl(validation / "accepted.jsonl", Clip) if c.split != "train"]
    items = [
        item_of(clip, feature, spoken, references[clip.row_id], nothing)
        for clip, feature, spoken in with_features(student, features, accepted)
    ]
    of_suites = read_jsonl(validation / "accepted_suites.jsonl", Clip)
    for name in names:
        questions = {q.id: q for q in read_jsonl(suites / name / "questions.jsonl", Question)}
        chosen = [clip for clip in of_suites if clip.suite == name]
        items += [
            item_of(clip, feature, spoken, "", questions[clip.row_id])
            for clip, feature, spoken in with_features(student, suite_features / name, chosen)
        ]
    return items


def with_features(
    student: SpeechStudent, features: Path, clips: list[Clip]
) -> Iterable[tuple[Clip, Feature, SoftTokens]]:
    """Each clip with what was measured and heard of it."""
    table = {feature.clip_id: feature for feature in read_jsonl(features / "table.jsonl", Feature)}
    return zip(clips, [table[clip.id] for clip in clips], load_prompts(student, features, clips), strict=True)


def item_of(clip: Clip, feature: Feature, spoken: SoftTokens, reference: str, question: Question) -> Item:
    return Item(
        suite=clip.suite, split=clip.split, row_id=clip.row_id, clip_id=clip.id, condition=clip.condition,
        voice=clip.voice, heldout_voice=clip.heldout_voice, snr_db=clip.strength.get("snr_db"),
        duration_s=clip.duration_s, prompt=clip.transcript, judge_hypothesis=feature.judge_hypothesis,
        student_hypothesis=feature.student_hypothesis, spoken=spoken, reference=reference, question=question,
    )  # fmt: skip
