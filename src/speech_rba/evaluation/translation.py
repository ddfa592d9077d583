"""Scores of translations by sacrebleu, 0 to 1: chrF2 of a sentence, chrF2 and BLEU of a corpus."""

from sacrebleu.metrics import BLEU, CHRF

from speech_rba.evaluation.score_table import corpora
from speech_rba.records import Answer, Question


def sentence_chrf(response: str, references: list[str]) -> float:
    """chrF2 against the nearest reference.

    BLEU of one sentence is uninformative: few sentences share four words in a row with their reference.
    """
    return CHRF().sentence_score(response, references).score / 100


def corpus_scores(responses: list[str], references: list[list[str]]) -> dict[str, float]:
    """{bleu, corpus_chrf}; `references` holds one list for each response, of any length."""
    longest = max(map(len, references))
    streams: list = [
        [options[i] if i < len(options) else None for options in references] for i in range(longest)
    ]
    bleu = BLEU().corpus_score(responses, streams).score / 100
    return {"bleu": bleu, "corpus_chrf": CHRF().corpus_score(responses, streams).score / 100}


def translation_scores(answers: list[Answer], questions: dict[tuple[str, str], Question]) -> list[dict]:
    """{suite, condition, system, n, bleu, corpus_chrf} of answers to sentences with references."""
    return [
        labels
        | corpus_scores(
            [a.response for a in corpus], [questions[a.suite, a.row_id].translations for a in corpus]
        )
        for suite in dict.fromkeys(a.suite for a in answers)
        for labels, corpus in corpora(answers, suite)
    ]
