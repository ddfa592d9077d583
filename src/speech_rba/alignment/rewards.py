"""The rewards of reinforcement: one table of plain functions, each one number a completion.

Their weights are align.rba.reward_weights of params.yaml; a reward whose weight is 0 is not computed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import sacrebleu
import torch
from peft import PeftModel

from speech_rba.alignment.examples import Example
from speech_rba.alignment.sampling import unwrapped_student
from speech_rba.data.ifeval import followed_share
from speech_rba.model.embedder import load_embedder
from speech_rba.model.logps import mutual_information


@dataclass(frozen=True)
class RewardBatch:
    """B sampled completions and the examples that they answer, in the same order."""

    model: PeftModel
    embed: Callable[[list[str]], torch.Tensor]  # unit vectors (B, E) of texts
    examples: list[Example]
    completion_ids: list[list[int]]
    completions: list[str]

    @property
    def references(self) -> list[str]:
        """The teacher's answers."""
        return [example.row.completion for example in self.examples]


def teacher_pmi(batch: RewardBatch) -> list[float]:
    """Mutual information of completion and written query under the teacher, nats a token.

    The student without its adapter is the teacher: config/ refuses this reward for another teacher.
    """
    written = [example.written for example in batch.examples]
    with batch.model.disable_adapter():
        return mutual_information(unwrapped_student(batch.model), written, batch.completion_ids)


def teacher_similarity(batch: RewardBatch) -> list[float]:
    """Cosine of the sentence embeddings of completion and teacher's answer, -1 to 1."""
    return (batch.embed(batch.completions) * batch.embed(batch.references)).sum(-1).tolist()


def length(batch: RewardBatch) -> list[float]:
    """0 up to twice the length of the teacher's answer, falling to -1 at three times; -1 for a clipped
    completion."""
    eos = unwrapped_student(batch.model).tokenizer.eos_token_id
    return [
        length_penalty(len(ids), len(example.completion_ids)) if ids[-1] == eos else -1.0
        for ids, example in zip(batch.completion_ids, batch.examples, strict=True)
    ]


def length_penalty(num_tokens: int, num_reference_tokens: int) -> float:
    return -min(1.0, max(0.0, num_tokens / max(1, num_reference_tokens) - 2))


def repetition(batch: RewardBatch) -> list[float]:
    """Minus the share of 3-grams that occurred before, 0 to -1."""
    return [distinct_share(ids) - 1 for ids in batch.completion_ids]


def distinct_share(tokens: list[int]) -> float:
    """The share of 3-grams that did not occur before, 0 to 1; 1 for fewer than three tokens."""
    grams = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    return len(set(grams)) / len(grams) if grams else 1.0


def bleu(batch: RewardBatch) -> list[float]:
    """Sentence BLEU with smoothed counts against the teacher's answer, 0 to 1 (sacrebleu's)."""
    pairs = zip(batch.completions, batch.references, strict=True)
    return [sacrebleu.sentence_bleu(completion, [reference]).score / 100 for completion, reference in pairs]


def chrf(batch: RewardBatch) -> list[float]:
    """Sentence chrF2 against the teacher's answer, 0 to 1 (sacrebleu's)."""
    pairs = zip(batch.completions, batch.references, strict=True)
    return [sacrebleu.sentence_chrf(completion, [reference]).score / 100 for completion, reference in pairs]


def instructions(batch: RewardBatch) -> list[float]:
    """The share of the prompt's checkable instructions that the completion follows, 0 to 1; 0 where it has
    none."""
    pairs = zip(batch.completions, [example.row.instructions for example in batch.examples], strict=True)
    return [followed_share(completion, given) if given else 0.0 for completion, given in pairs]


REWARDS: dict[str, Callable[[RewardBatch], list[float]]] = {
    "teacher_pmi": teacher_pmi,
    "teacher_similarity": teacher_similarity,
    "length": length,
    "repetition": repetition,
    "bleu": bleu,
    "chrf": chrf,
    "instructions": instructions,
}


def trl_rewards(names: list[str], model: PeftModel, examples: list[Example], embedder: str) -> list[Callable]:
    """These rewards in TRL's form; a prompt of TRL is the place of its example in `examples`.

    `embedder` is an asset name, loaded when a reward first needs it.
    """
    load = functools.cache(lambda: load_embedder(embedder))

    def embed(texts: list[str]) -> torch.Tensor:
        return load()(texts)

    def trl_reward(name: str) -> Callable:
        def reward(prompts, completions, completion_ids, **_) -> list[float]:
            own_examples = [examples[int(prompt)] for prompt in prompts]
            return REWARDS[name](RewardBatch(model, embed, own_examples, completion_ids, completions))

        reward.__name__ = name  # TRL logs a reward under its function's name
        return reward

    return [trl_reward(name) for name in names]
