"""What was heard in many clips, in one safetensors file: a clip is heard once and trained on often."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speech_rba.model.audio_tower import Heard
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import Clip, Feature, read_jsonl


def save_heard(path: Path, heard: list[Heard]) -> None:
    """Writes all positions one after the other, with the end of each clip; hidden states as float16."""
    ends = torch.tensor([len(h.token_ids) for h in heard], dtype=torch.long).cumsum(0)
    save_file(
        {
            "ends": ends,
            "token_ids": torch.cat([h.token_ids for h in heard]).int(),
            "top_ids": torch.cat([h.top_ids for h in heard]).int(),
            "top_probs": torch.cat([h.top_probs for h in heard]).float(),
            "hidden": torch.cat([h.hidden for h in heard]).half(),
            "acoustics": torch.stack([h.acoustics for h in heard]),
            "mean_logprob": torch.tensor([h.mean_logprob for h in heard]),
        },
        path,
    )


def load_heard(path: Path, rows: list[int]) -> list[Heard]:
    """The clips at these places of the file, in this order."""
    arrays = load_file(path)
    ends = [0, *arrays["ends"].tolist()]
    spans = [slice(ends[row], ends[row + 1]) for row in rows]
    return [
        Heard(
            arrays["token_ids"][span].long(),
            arrays["top_ids"][span].long(),
            arrays["top_probs"][span],
            arrays["hidden"][span].float(),
            arrays["acoustics"][row],
            arrays["mean_logprob"][row].item(),
        )
        for row, span in zip(rows, spans, strict=True)
    ]


def load_spoken(student: SpeechStudent, features: Path, clips: list[Clip]) -> list[SoftTokens]:
    """The prompts of these clips, from what the features stage heard."""
    place = {f.clip_id: i for i, f in enumerate(read_jsonl(features / "table.jsonl", Feature))}
    heard = load_heard(features / "heard.safetensors", [place[c.id] for c in clips])
    return [student.understand(h) for h in heard]
