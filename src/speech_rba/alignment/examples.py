"""Training examples in memory: a clip's prompt, the prompt of its text, and the teacher's answer."""

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
    written: SoftTokens  # the same query as text: the teacher's prompt
    completion_ids: list[int]  # the teacher's answer, with EOS where the teacher ended it


def load_examples(
    student: SpeechStudent, rows: Path, features: Path, validation: Path, split: str
) -> list[Example]:
    """Every accepted alignment clip of a split, in the manifest's order."""
    by_id = {row.id: row for row in read_jsonl(rows / "rows.jsonl", Row)}
    accepted = read_jsonl(validation / "accepted.jsonl", Clip)
    clips = [clip for clip in accepted if clip.suite == ALIGNMENT and clip.split == split]
    clip_rows = [by_id[clip.row_id] for clip in clips]
    spoken = load_prompts(student, features, clips)
    written = student.text_prompts([row.prompt for row in clip_rows])
    completions = teacher_completions(student, clip_rows)
    return [Example(*fields) for fields in zip(clips, clip_rows, spoken, written, completions, strict=True)]


def teacher_completions(student: SpeechStudent, rows: list[Row]) -> list[list[int]]:
    """The token ids of each row's answer; EOS follows where the teacher ended the answer by itself."""
    if not rows:  # the tokenizer takes no empty batch
        return []
    eos = [student.tokenizer.eos_token_id]
    ids = student.tokenizer([row.completion for row in rows], add_special_tokens=False).input_ids
    return [tokens + eos * row.completion_ended for tokens, row in zip(ids, rows, strict=True)]
