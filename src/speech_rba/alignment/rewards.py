"""Rewards of an answer: plain functions of one example and one answer, summed with the weights of params.yaml."""

from collections.abc import Callable

import sacrebleu
import torch

from speech_rba.data.ifeval import followed_share
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.logps import sequence_logps
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import Instruction


def teacher_pmi(
    student: SpeechStudent, written: list[SoftTokens], completions: list[list[int]]
) -> list[float]:
    """Pointwise mutual information of answer and query under the teacher, a token, in nats.

    log p(answer | query) - log p(answer | no query): an answer that fits any query ("I'm here to help") gains
    nothing. Call it with the adapter switched off when student and teacher share weights.
    """
    nothing = student.text_prompts([""])
    with_query = sequence_logps(student, written, completions)
    without = sequence_logps(student, nothing * len(completions), completions)
    lengths = torch.tensor([len(c) for c in completions])
    return ((with_query - without) / lengths).tolist()


def teacher_similarity(
    embed: Callable[[list[str]], torch.Tensor], responses: list[str], references: list[str]
) -> list[float]:
    """Cosine of each response's sentence embedding with the teacher's answer, -1 to 1."""
    return (embed(responses) * embed(references)).sum(-1).tolist()


def bleu(response: str, reference: str) -> float:
    """Sentence BLEU with smoothed counts, 0 to 1 (sacrebleu's)."""
    return sacrebleu.sentence_bleu(response, [reference]).score / 100


def chrf(response: str, reference: str) -> float:
    """Sentence chrF2, 0 to 1 (sacrebleu's)."""
    return sacrebleu.sentence_chrf(response, [reference]).score / 100


def instructions(response: str, given: list[Instruction]) -> float:
    """The share of what was asked and can be checked that an answer follows, 0 to 1; 0 where nothing was."""
    return followed_share(response, given) if given else 0.0


def length(num_tokens: int, num_reference_tokens: int, ended: bool) -> float:
    """0 for an answer that ends and is no longer than twice the teacher's; down to -1 above that; -1 if cut off."""
    if not ended:
        return -1.0
    return -min(1.0, max(0.0, num_tokens / max(1, num_reference_tokens) - 2))


def repetition(tokens: list[int]) -> float:
    """Minus the share of 3-grams that occurred before, 0 to -1."""
    grams = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    return len(set(grams)) / len(grams) - 1 if grams else 0.0
