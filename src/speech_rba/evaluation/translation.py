"""How good translations are, by sacrebleu: a sentence by chrF2, a corpus by chrF2 and BLEU, 0 to 1."""

from sacrebleu.metrics import BLEU, CHRF

from speech_rba.evaluation.scoring import corpora
from speech_rba.records import Answer


def sentence_chrf(response: str, references: list[str]) -> float:
    """chrF2 against the nearest reference. BLEU says nothing of a sentence: few share four words in a row with it."""
    return CHRF().sentence_score(response, references).score / 100


def corpus_scores(responses: list[str], references: list[list[str]]) -> dict[str, float]:
    """{bleu, chrf} of a corpus; `references` holds one list a response, of any length."""
    longest = max(map(len, references))
    streams = [[options[i] if i < len(options) else None for options in references] for i in range(longest)]
    return {name: metric.corpus_score(responses, streams).score / 100 for name, metric in
            (("bleu", BLEU()), ("chrf", CHRF()))}  # fmt: skip


def translated(answers: list[Answer], references: dict[tuple[str, str], list[str]]) -> list[dict]:
    """{suite, condition, system, n, bleu, chrf} of every suite with references, over the answers that have one."""
    answers = [a for a in answers if references.get((a.suite, a.row_id))]
    return [
        where | corpus_scores([a.response for a in said], [references[suite, a.row_id] for a in said])
        for suite in dict.fromkeys(a.suite for a in answers)
        for where, said in corpora(answers, suite)
    ]
