"""Log-probabilities of given completions."""

import torch

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.speech_student import SpeechStudent


def pad_right(ids: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions as one (B, C) and its mask (B, C)."""
    length = max(len(i) for i in ids)
    mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i in ids])
    return torch.tensor([i + [pad] * (length - len(i)) for i in ids]), mask


def token_logps(logits_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    """The log-probability (N,) of each of `ids_N`, in float32."""
    return -torch.nn.functional.cross_entropy(logits_NV.float(), ids_N, reduction="none")


def divergence(logits_NV: torch.Tensor, other_NV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats of each of N distributions over the vocabulary and its other, (N,), in float32."""
    logp, logq = logits_NV.float().log_softmax(-1), other_NV.float().log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum(-1)


def completion_logps(logits_NV: torch.Tensor, ids_BC: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """The log-probability (B, C) of each completion token from the student's logits; 0 for padding."""
    kept = mask_BC.bool()
    return spread(token_logps(logits_NV, ids_BC[kept]), kept)


def spread(values_N: torch.Tensor, kept_BC: torch.Tensor) -> torch.Tensor:
    """The values at the places that are kept, row by row; 0 elsewhere."""
    return torch.zeros_like(kept_BC, dtype=values_N.dtype).masked_scatter(kept_BC, values_N)


@torch.no_grad()
def sequence_logps(student: SpeechStudent, prompts: list[SoftTokens], completions: list[list[int]]) -> torch.Tensor:
    """log p of each completion given its prompt, (B,); a prompt that repeats is computed once."""
    unique = list({id(p): p for p in prompts}.values())
    place = {id(p): i for i, p in enumerate(unique)}
    ids, mask = pad_right(completions, student.tokenizer.eos_token_id)
    logits = student(unique, torch.tensor([place[id(p)] for p in prompts]), ids, mask)
    return completion_logps(logits, ids, mask).sum(1)
