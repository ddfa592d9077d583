"""The training examples in memory: soft tokens of each clip, its text, and the teacher's answer."""

from dataclasses import dataclass
from pathlib import Path

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.hypotheses import load_prompts
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import ALIGNMENT, Clip, Row, read_jsonl


@dataclass(frozen=True)
class Example:
    clip: Clip
    row: Row
    spoken: SoftTokens
    written: SoftTokens  # the same query as text, as the teacher gets it
    completion_ids: list[int]  # the teacher's answer; with EOS where the teacher ended it


def load_examples(
    student: SpeechStudent, rows: Path, features: Path, validation: Path, split: str
) -> list[Example]:
    """Every accepted alignment clip of a split, in the manifest's order."""
    by_id = {row.id: row for row in read_jsonl(rows / "rows.jsonl", Row)}
    accepted = read_jsonl(validation / "accepted.jsonl", Clip)
    clips = [c for c in accepted if c.suite == ALIGNMENT and c.split == split]
    spoken = load_prompts(student, features, clips)
    written = student.text_prompts([by_id[c.row_id].prompt for c in clips])
    end = [student.tokenizer.eos_token_id]
    ids = (
        student.tokenizer([by_id[c.row_id].completion for c in clips], add_special_tokens=False).input_ids
        if clips
        else []
    )
    answers = [i + end * by_id[c.row_id].completion_ended for i, c in zip(ids, clips, strict=True)]
    return [
        Example(clip, by_id[clip.row_id], s, w, a)
        for clip, s, w, a in zip(clips, spoken, written, answers, strict=True)
    ]
