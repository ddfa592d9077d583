"""Batches of like lengths: nothing is left out or comes twice, and little of a batch is padding."""

import torch

from speech_rba.alignment.examples import Example
from speech_rba.alignment.trainer import LikeLengths
from speech_rba.model.bridge import SoftTokens, one_hot_tokens


def example(num_prompt: int, num_completion: int) -> Example:
    prompt: SoftTokens = one_hot_tokens([1] * num_prompt, 4)
    return Example(None, None, prompt, prompt, [1] * num_completion)


EXAMPLES = [
    example(int(p), int(c)) for p, c in torch.randint(5, 30, (203, 2), generator=torch.manual_seed(0))
]


def padding(order: list[int]) -> float:
    """The share of padding, prompts and completions padded apart."""
    sizes = [(len(EXAMPLES[i].spoken.ids), len(EXAMPLES[i].completion_ids)) for i in order]
    batches = [sizes[k : k + 16] for k in range(0, len(sizes), 16)]
    padded = sum(len(b) * (max(p for p, _ in b) + max(c for _, c in b)) for b in batches)
    return 1 - sum(p + c for p, c in sizes) / padded


def test_every_example_comes_once_with_little_padding():
    order = list(LikeLengths(EXAMPLES, 16, seed=0))
    assert sorted(order) == list(range(203))
    assert padding(order) < 0.25 < 0.35 < padding(list(range(203)))


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = LikeLengths(EXAMPLES, 16, seed=0)
    first = list(sampler)
    assert list(sampler) == first and list(LikeLengths(EXAMPLES, 16, seed=1)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
