"""The hypotheses of many clips in one safetensors file: a clip is transcribed once and trained on often."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.no_speech import REASONS
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import Clip, Feature, read_jsonl


def save_hypotheses(path: Path, hypotheses: list[Hypothesis]) -> None:
    """Writes all positions one after the other, with the end of each clip; hidden states as float16."""
    ends = torch.tensor([len(h.token_ids) for h in hypotheses], dtype=torch.long).cumsum(0)
    save_file(
        {
            "ends": ends,
            "token_ids": torch.cat([h.token_ids for h in hypotheses]).int(),
            "top_ids": torch.cat([h.top_ids for h in hypotheses]).int(),
            "top_probs": torch.cat([h.top_probs for h in hypotheses]).float(),
            "hidden": torch.cat([h.hidden for h in hypotheses]).half(),
            "attribute_features": torch.stack([h.attribute_features for h in hypotheses]),
            "mean_logprob": torch.tensor([h.mean_logprob for h in hypotheses]),
            "no_speech": torch.tensor([_reason_number(h.no_speech) for h in hypotheses]),
            "loop_cut": torch.tensor([h.loop_cut for h in hypotheses]),
        },
        path,
    )


def load_hypotheses(path: Path, rows: list[int]) -> list[Hypothesis]:
    """The hypotheses of the clips at these places of the file, in this order."""
    arrays = load_file(path)
    ends = [0, *arrays["ends"].tolist()]
    return [_hypothesis(arrays, row, slice(ends[row], ends[row + 1])) for row in rows]


def _hypothesis(arrays: dict[str, torch.Tensor], row: int, span: slice) -> Hypothesis:
    return Hypothesis(
        arrays["token_ids"][span].long(),
        arrays["top_ids"][span].long(),
        arrays["top_probs"][span],
        arrays["hidden"][span].float(),
        arrays["attribute_features"][row],
        arrays["mean_logprob"][row].item(),
        (None, *REASONS)[int(arrays["no_speech"][row])],
        bool(arrays["loop_cut"][row]),
    )


def _reason_number(reason: str | None) -> int:
    """The place of a reason in REASONS from 1, 0 for none."""
    return 0 if reason is None else 1 + REASONS.index(reason)


def load_prompts(student: SpeechStudent, features: Path, clips: list[Clip]) -> list[SoftTokens]:
    """The prompts of these clips, from the hypotheses of the features stage."""
    place = {f.clip_id: i for i, f in enumerate(read_jsonl(features / "table.jsonl", Feature))}
    hypotheses = load_hypotheses(features / "hypotheses.safetensors", [place[c.id] for c in clips])
    return [student.build_prompt(h) for h in hypotheses]
