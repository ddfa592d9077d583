"""Scores of translations against numbers worked by hand."""

import pytest

from speech_rba.evaluation.translation import corpus_scores, sentence_chrf, translation_scores
from speech_rba.records import Answer, Question

SENTENCES = {"a": "eins zwei drei vier", "b": "fünf sechs sieben acht"}


def answer(system: str, condition: str, row: str, response: str) -> Answer:
    return Answer(
        suite="t",
        row_id=row,
        clip_id="" if condition == "text" else f"{row}-{condition}",
        system=system,
        condition=condition,
        voice="v",
        heldout_voice=False,
        snr_db=None,
        judge_hypothesis="",
        response=response,
        metrics={},
    )


def test_a_sentence_is_compared_with_its_nearest_reference():
    assert sentence_chrf("Der Hund schläft.", ["Die Katze wacht.", "Der Hund schläft."]) == 1
    assert sentence_chrf("xyz", ["Der Hund schläft."]) == 0


def test_bleu_of_a_corpus_by_hand():
    """Five of six words, four of five pairs, three of four triples, two of three runs of four are right."""
    scores = corpus_scores(["the cat is on the rug", "a b"], [["the cat is on the mat"], ["a b", "c d"]])
    product = (7 / 8) * (5 / 6) * (3 / 4) * (2 / 3)  # the second sentence adds two words and a pair
    assert scores["bleu"] == pytest.approx(product**0.25, abs=1e-6)


def test_every_system_is_scored_on_text_clean_degraded_and_all():
    questions = {
        ("t", row): Question(id=row, prompt="", answers=[], translations=[text])
        for row, text in SENTENCES.items()
    }
    answers = [answer("text", "text", row, SENTENCES[row]) for row in "ab"]
    answers += [answer("base", "clean", row, SENTENCES[row]) for row in "ab"]
    answers += [answer("base", "room", row, "nichts") for row in "ab"]
    rows = translation_scores(answers, questions)
    scores = {(row["condition"], row["system"]): row for row in rows}
    assert set(scores) == {("text", "text"), ("clean", "base"), ("degraded", "base"), ("all", "base")}
    assert scores["text", "text"]["bleu"] == pytest.approx(1) == scores["clean", "base"]["corpus_chrf"]
    assert scores["degraded", "base"]["bleu"] == 0 < scores["all", "base"]["bleu"] < 1
    assert scores["all", "base"]["n"] == 4
