"""Batches of similar lengths: every example comes once, and little of a batch is padding."""

import torch

from speech_rba.alignment.examples import Example
from speech_rba.alignment.trainer import SimilarLengthSampler
from speech_rba.model.bridge import SoftTokens, one_hot_tokens


def example(num_prompt_tokens: int, num_completion_tokens: int) -> Example:
    prompt: SoftTokens = one_hot_tokens([1] * num_prompt_tokens, 4)
    return Example(None, None, prompt, prompt, [1] * num_completion_tokens)


LENGTHS = torch.randint(5, 30, (203, 2), generator=torch.manual_seed(0)).tolist()
EXAMPLES = [example(*lengths) for lengths in LENGTHS]


def padding(order: list[int]) -> float:
    """The share of padding in batches of 16; prompts and completions are padded apart."""
    sizes = [LENGTHS[place] for place in order]
    batches = [sizes[start : start + 16] for start in range(0, len(sizes), 16)]
    padded = sum(len(batch) * (max(p for p, _ in batch) + max(c for _, c in batch)) for batch in batches)
    return 1 - sum(p + c for p, c in sizes) / padded


def test_every_example_comes_once_with_little_padding():
    order = list(SimilarLengthSampler(EXAMPLES, 16, seed=0))
    assert sorted(order) == list(range(203))
    assert padding(order) < 0.25 < 0.35 < padding(list(range(203)))


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = SimilarLengthSampler(EXAMPLES, 16, seed=0)
    first = list(sampler)
    assert list(sampler) == first and list(SimilarLengthSampler(EXAMPLES, 16, seed=1)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
