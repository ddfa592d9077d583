"""The training examples in memory: soft tokens of each clip, its text, and the teacher's answer."""

from dataclasses import dataclass
from pathlib import Path

import torch

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.heard import load_heard
from speech_rba.model.student import Student
from speech_rba.records import Clip, Feature, Row, read_jsonl

SUITE = "alignment"  # what the voice stage calls clips of synthesized rows


@dataclass(frozen=True)
class Example:
    clip: Clip
    row: Row
    spoken: SoftTokens
    written: SoftTokens  # the same query as text, as the teacher gets it
    completion_ids: list[int]  # the teacher's answer, ending with EOS


def load_examples(student: Student, rows: Path, features: Path, validation: Path, split: str) -> list[Example]:
    """Every accepted alignment clip of a split, in the manifest's order."""
    by_id = {row.id: row for row in read_jsonl(rows / "rows.jsonl", Row)}
    accepted = read_jsonl(validation / "accepted.jsonl", Clip)
    clips = [c for c in accepted if c.suite == SUITE and c.split == split]
    spoken = load_spoken(student, features, clips)
    written = student.read([by_id[c.row_id].prompt for c in clips])
    eos = student.tokenizer.eos_token_id
    answers = [student.tokenizer(by_id[c.row_id].completion, add_special_tokens=False).input_ids + [eos] for c in clips]
    return [
        Example(clip, by_id[clip.row_id], s, w, a)
        for clip, s, w, a in zip(clips, spoken, written, answers, strict=True)
    ]


def load_spoken(student: Student, features: Path, clips: list[Clip]) -> list[SoftTokens]:
    """Soft tokens of these clips, from what the features stage heard. A clip of silence gets one empty position."""
    place = {f.clip_id: i for i, f in enumerate(read_jsonl(features / "table.jsonl", Feature))}
    heard = load_heard(features / "heard.safetensors", [place[c.id] for c in clips])
    return [student.bridge.cross(h, student.config.top_k, student.config.temperature) for h in heard]


def pad_right(ids: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions as one (B, C) and its mask (B, C)."""
    length = max(len(i) for i in ids)
    mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i in ids])
    return torch.tensor([i + [pad] * (length - len(i)) for i in ids]), mask


def token_logps(logits_BCV: torch.Tensor, ids_BC: torch.Tensor) -> torch.Tensor:
    """The log-probability (B, C) of each of `ids_BC`."""
    chosen = logits_BCV.gather(-1, ids_BC[..., None])[..., 0]
    return chosen - logits_BCV.logsumexp(-1)
