"""How responses to a suite's questions are scored: one entry in SCORERS for each kind of question.

A kind is named by the field of `Question` that holds what its responses are scored against. A new kind needs
its reader in `suites/`, an entry in SCORERS and its metrics in METRICS.
"""

from collections.abc import Callable
from dataclasses import dataclass

from speech_rba.evaluation.instructions import instruction_scores, instruction_verdicts
from speech_rba.evaluation.metrics import is_right
from speech_rba.evaluation.parsing import chosen_letter, refuses
from speech_rba.evaluation.translation import sentence_chrf, translation_scores
from speech_rba.records import Answer, Question

Scores = dict[str, float]
Questions = dict[tuple[str, str], Question]  # by suite and row id


@dataclass(frozen=True)
class CorpusScorer:
    """Scores of all answers of a system together: a row for each suite, condition and system."""

    title: str
    note: str
    score: Callable[[list[Answer], Questions], list[dict]]


@dataclass(frozen=True)
class Metric:
    """How a score is written: `label` with its unit, shown as value * `scale` with so many decimals.

    A `binary` metric is 1 or 0 for each response. With `needs_text_above_0`, a comparison of systems means
    something only where the text system's score is above 0.
    """

    label: str
    scale: float
    decimals: int
    binary: bool = False
    needs_text_above_0: bool = False


METRICS = {
    "accuracy": Metric("accuracy (%)", 100, 1, binary=True),
    "unparsed": Metric("answers without a letter, counted wrong (%)", 100, 1),
    "refused": Metric("requests refused (%)", 100, 1, needs_text_above_0=True),
    "followed": Metric("all instructions followed (%)", 100, 1, binary=True),
    "followed_loosely": Metric("all instructions followed, loose criteria (%)", 100, 1),
    "chrf": Metric("chrF2 of a sentence", 100, 1),
    "token_f1": Metric("token F1 (%)", 100, 1),
    "teacher_similarity": Metric("teacher similarity (cosine)", 1, 3),
    "teacher_logp": Metric("log-likelihood of the teacher's answer (nats per token)", 1, 2),
    "teacher_pmi": Metric("mutual information of answer and prompt under the teacher (nats per token)", 1, 2),
    "prompt_retrieval_mrr": Metric("prompt-retrieval MRR (1/rank)", 1, 3),
    "bleu": Metric("BLEU", 100, 1),
    "corpus_chrf": Metric("chrF2", 100, 1),
    "prompt_strict": Metric("prompts, strict", 100, 1),
    "prompt_loose": Metric("prompts, loose", 100, 1),
    "instruction_strict": Metric("instructions, strict", 100, 1),
    "instruction_loose": Metric("instructions, loose", 100, 1),
    "forgetting": Metric("forgetting rate", 100, 1),
}


def score_answers(question: Question, response: str) -> Scores:
    return {"accuracy": float(is_right(response, question.answers, question.wrong))}


def score_choice(question: Question, response: str) -> Scores:
    """Accuracy, and whether the response chooses no letter, which counts as wrong."""
    letter = chosen_letter(response)
    return {"accuracy": float(letter == question.choice), "unparsed": float(letter is None)}


def score_refusal(question: Question, response: str) -> Scores:
    return {"refused": float(refuses(response))}


def score_instructions(question: Question, response: str) -> Scores:
    """Whether the response follows all instructions, by the strict and by the loose criteria."""
    verdicts = instruction_verdicts(response, question.instructions)
    return {"followed": float(all(verdicts["strict"])), "followed_loosely": float(all(verdicts["loose"]))}


def score_translation(question: Question, response: str) -> Scores:
    return {"chrf": sentence_chrf(response, question.translations)}


SCORERS: dict[str, Callable[[Question, str], Scores]] = {
    "answers": score_answers,
    "choice": score_choice,
    "refuse": score_refusal,
    "instructions": score_instructions,
    "translations": score_translation,
    "judged": lambda question, response: {},  # text_measures.py scores it by the teacher's likelihood
}
CORPUS_SCORERS = {
    "translations": CorpusScorer("scores of the whole corpus (sacrebleu)", "", translation_scores),
    "instructions": CorpusScorer(
        "instructions followed (%)",
        "Strict and loose criteria are those of IFEval. The forgetting rate is the share of the text "
        "system's strict accuracy over instructions that a system lacks. It is undefined where text "
        "follows none.",
        instruction_scores,
    ),
}


def score_response(question: Question, response: str) -> Scores:
    """The metrics of a response by every kind that the question has; none without a question."""
    scores: Scores = {}
    for kind, score in SCORERS.items():
        if question.target(kind):
            scores |= score(question, response)
    return scores


def corpus_tables(answers: list[Answer], questions: Questions) -> list[dict]:
    """{kind, title, note, rows} of each kind in CORPUS_SCORERS that has answers."""
    tables = []
    for kind, scorer in CORPUS_SCORERS.items():
        scored = [a for a in answers if questions[a.suite, a.row_id].target(kind)]
        if rows := scorer.score(scored, questions):
            tables.append({"kind": kind, "title": scorer.title, "note": scorer.note, "rows": rows})
    return tables
