"""Log-probabilities of given completions."""

import torch
from torch import nn

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.speech_student import SpeechStudent

ROWS = 128  # of the table over the vocabulary that is held at once: 25 MB of 49,152 words


def pad_right(ids: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions as one (B, C) and its mask (B, C), on the CPU."""
    length = max(len(i) for i in ids)
    mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i in ids])
    return torch.tensor([i + [pad] * (length - len(i)) for i in ids]), mask


class _TokenLogps(torch.autograd.Function):
    """The table over the vocabulary exists a few rows at a time, and the gradient is taken while it does.

    d log p(w) / d hidden = (weight[w] - sum over v of p(v) weight[v]) / temperature. The weight itself is
    frozen.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, ids_N, temperature):
        id_logps, entropies, gradients = [], [], []
        for hidden, ids in zip(hidden_ND.split(ROWS), ids_N.split(ROWS), strict=True):
            logps = (hidden @ weight_VD.T).float().div_(temperature).log_softmax(-1)
            probs = logps.exp()
            id_logps.append(logps.gather(1, ids[:, None])[:, 0])
            entropies.append(-(probs[:, None] @ logps[:, :, None]).view(-1))
            if ctx.needs_input_grad[0]:
                gradients.append((weight_VD[ids] - probs.to(weight_VD.dtype) @ weight_VD) / temperature)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        entropies_N = torch.cat(entropies)
        ctx.mark_non_differentiable(entropies_N)
        return torch.cat(id_logps), entropies_N

    @staticmethod
    def backward(ctx, grad_N, _):
        (gradients_ND,) = ctx.saved_tensors
        return grad_N[:, None].to(gradients_ND.dtype) * gradients_ND, None, None, None


def token_logps(
    hidden_ND: torch.Tensor, head: nn.Linear, ids_N: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability (N,) of each of `ids_N` after its hidden state, and the entropy (N,) there; in
    float32.

    Gradients reach the hidden states from the log-probabilities alone.
    """
    assert head.bias is None and not head.weight.requires_grad
    return _TokenLogps.apply(hidden_ND, head.weight, ids_N, temperature)


def divergence(logits_NV: torch.Tensor, other_NV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats between the N distributions p of `logits_NV` and q of `other_NV`, (N,), in
    float32."""
    logp, logq = logits_NV.float().log_softmax(-1), other_NV.float().log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum(-1)


def completion_logps(
    hidden_ND: torch.Tensor,
    head: nn.Linear,
    ids_BC: torch.Tensor,
    mask_BC: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability (B, C) of each completion token, and the entropy (B, C) there; 0 for padding."""
    kept = mask_BC.bool()
    logps_N, entropies_N = token_logps(hidden_ND, head, ids_BC[kept], temperature)
    return _spread(logps_N, kept), _spread(entropies_N, kept)


def _spread(values_N: torch.Tensor, kept_BC: torch.Tensor) -> torch.Tensor:
    """The values at the places that `kept_BC` marks, row by row; 0 elsewhere."""
    return torch.zeros_like(kept_BC, dtype=values_N.dtype).masked_scatter(kept_BC, values_N)


def sampling_kl(sampler_logps_N: torch.Tensor, policy_logps_N: torch.Tensor) -> float:
    """KL(sampler || policy) in nats a token, from the log-probabilities of tokens that the sampler drew; 0 or
    more.

    The estimator k3 of Schulman (http://joschu.net/blog/kl-approx.html): unbiased, and of less variance than
    the mean log-ratio.
    """
    log_ratio = policy_logps_N - sampler_logps_N.to(policy_logps_N)
    return (log_ratio.exp() - 1 - log_ratio).mean().item()


@torch.no_grad()
def sequence_logps(
    student: SpeechStudent, prompts: list[SoftTokens], completions: list[list[int]]
) -> torch.Tensor:
    """log p of each completion given its prompt, (B,); a prompt that repeats is computed once."""
    unique = list({id(p): p for p in prompts}.values())
    place = {id(p): i for i, p in enumerate(unique)}
    padded = pad_right(completions, student.tokenizer.eos_token_id)
    ids, mask = (x.to(student.device) for x in padded)
    owners = torch.tensor([place[id(p)] for p in prompts], device=student.device)
    hidden = student(unique, owners, ids, mask)
    return completion_logps(hidden, student.head, ids, mask)[0].sum(1)


def mutual_information(
    student: SpeechStudent, prompts: list[SoftTokens], completions: list[list[int]]
) -> list[float]:
    """Pointwise mutual information of each completion and its prompt, in nats a token.

    log p(completion | prompt) - log p(completion | empty prompt): a completion that fits any prompt gains
    nothing.
    """
    empty = student.text_prompts([""])
    with_prompt = sequence_logps(student, prompts, completions)
    without = sequence_logps(student, empty * len(completions), completions)
    lengths = with_prompt.new_tensor([len(ids) for ids in completions])
    return ((with_prompt - without) / lengths).tolist()
