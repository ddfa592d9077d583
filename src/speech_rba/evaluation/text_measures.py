"""Measures of answers that a language model or sentence embeddings compute from several texts."""

from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from speech_rba.compute.device import fast_products
from speech_rba.evaluation.items import Item
from speech_rba.evaluation.metrics import token_f1
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.logps import mutual_information
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import ALIGNMENT, Answer

BATCH = 32  # answers scored together
LENGTH_STEP = 16  # characters
Pair = tuple[tuple[str, str], str]  # suite and row id, and a response
Embedder = Callable[[list[str]], torch.Tensor]


def embed_once(embed: Embedder) -> Embedder:
    """As `embed`, but equal texts are computed once; texts of similar lengths share a batch."""
    vectors: dict[str, torch.Tensor] = {}

    def embed_new(texts: list[str]) -> torch.Tensor:
        new = sorted({text for text in texts if text not in vectors}, key=lambda text: (len(text), text))
        for batch in batches(new):
            vectors.update(zip(batch, embed(batch), strict=True))
        return torch.stack([vectors[text] for text in texts])

    return embed_new


def reference_scores(
    answering: AlignedStudent,
    embed: Embedder,
    items: list[Item],
    prompts: list[SoftTokens],
    responses: list[str],
) -> dict[int, dict[str, float]]:
    """{token_f1, teacher_similarity, teacher_logp} of answers to synthesized rows, by place in `items`."""
    places = [place for place, item in enumerate(items) if item.reference]
    places.sort(key=lambda place: length_key(items[place].prompt, items[place].reference))
    scores = {}
    for batch in batches(places, "score"):
        references = [items[place].reference for place in batch]
        cosines = (embed([responses[place] for place in batch]) * embed(references)).sum(-1).tolist()
        logps = teacher_logps(answering, [prompts[place] for place in batch], references)
        for place, cosine, logp in zip(batch, cosines, logps, strict=True):
            f1 = token_f1(responses[place], items[place].reference)
            scores[place] = {"token_f1": f1, "teacher_similarity": cosine, "teacher_logp": logp}
    return scores


def teacher_logps(answering: AlignedStudent, prompts: list[SoftTokens], references: list[str]) -> list[float]:
    """Mean log-probability per token, in nats, that a system gives to the teacher's answers.

    The end of the answer does not count: where the token limit cut an answer, the teacher did not write its
    end. The products are in the fast dtype, because no choice depends on the third decimal of a likelihood.
    """
    ids = answering.student.tokenizer(references, add_special_tokens=False).input_ids
    with fast_products(answering.student.device):
        return [logp / len(i) for logp, i in zip(answering.logps(prompts, ids), ids, strict=True)]


def add_text_measures(
    student: SpeechStudent, embed: Embedder, items: list[Item], answers: list[Answer]
) -> None:
    """Adds `teacher_pmi` and `prompt_retrieval_mrr` to the answers of one split."""
    judged = {(i.suite, i.row_id): i.prompt for i in items if i.suite == ALIGNMENT or i.question.judged}
    add_pmi(student, judged, answers)
    add_prompt_retrieval(embed, {i.row_id: i.prompt for i in items if i.suite == ALIGNMENT}, answers)


def add_pmi(student: SpeechStudent, prompts: dict[tuple[str, str], str], answers: list[Answer]) -> None:
    """Adds `teacher_pmi`, the mutual information of answer and written prompt, to answers to `prompts`.

    It is in nats per token, 0 for an empty answer, under the student's own language model, which is the
    teacher's unless params.yaml names two. Equal answers of several systems are computed once.
    """
    judged = [answer for answer in answers if (answer.suite, answer.row_id) in prompts]
    pairs = list({((a.suite, a.row_id), a.response): None for a in judged if a.response.strip()})
    pairs.sort(key=lambda pair: length_key(prompts[pair[0]], pair[1]))
    values: dict[Pair, float] = {}
    for batch in batches(pairs, "mutual information"):
        written = student.text_prompts([prompts[row] for row, _ in batch])
        ids = student.tokenizer([response for _, response in batch], add_special_tokens=False).input_ids
        with fast_products(student.device):
            values |= dict(zip(batch, mutual_information(student, written, ids), strict=True))
    for answer in judged:
        answer.metrics["teacher_pmi"] = values.get(((answer.suite, answer.row_id), answer.response), 0.0)


def add_prompt_retrieval(embed: Embedder, prompts: dict[str, str], answers: list[Answer]) -> None:
    """Adds `prompt_retrieval_mrr` to each answer to a synthesized row.

    It is 1 over the rank of the row's prompt among all `prompts`, by the cosine of answer and prompt. No
    reward holds the embeddings of prompts, and the measure needs no teacher.
    """
    scored = [answer for answer in answers if answer.suite == ALIGNMENT]
    if not prompts:
        return
    places = {row_id: place for place, row_id in enumerate(prompts)}
    responses = list(dict.fromkeys(answer.response for answer in scored))
    cosines = dict(zip(responses, embed(responses) @ embed(list(prompts.values())).T, strict=True))
    for answer in scored:
        cosines_R = cosines[answer.response]
        num_nearer = (cosines_R > cosines_R[places[answer.row_id]]).sum().item()
        answer.metrics["prompt_retrieval_mrr"] = 1 / (1 + num_nearer)


def batches(values: list, progress: str | None = None) -> Iterator[list]:
    """`values` in batches, under a progress bar where it has a name."""
    starts = range(0, len(values), BATCH)
    for start in tqdm(starts, desc=progress, mininterval=2, disable=progress is None):
        yield values[start : start + BATCH]


def length_key(prompt: str, response: str) -> tuple[int, int]:
    """A sort key that brings texts of similar lengths together: a batch is padded to its longest texts."""
    return len(prompt) // LENGTH_STEP, len(response)
