"""Scores of translations against numbers worked by hand."""

import pytest

from speech_rba.evaluation.translation import corpus_scores, sentence_chrf, translated
from speech_rba.records import Answer


def answer(system: str, condition: str, row: str, response: str) -> Answer:
    text = system == "text"
    return Answer(suite="t", row_id=row, clip_id="" if text else f"{row}-{condition}", system=system,
                  condition=condition, voice="v", heldout_voice=False, snr_db=None, judge_hypothesis="", response=response,
                  metrics={})  # fmt: skip


def test_a_sentence_is_held_against_its_nearest_reference():
    assert sentence_chrf("Der Hund schläft.", ["Die Katze wacht.", "Der Hund schläft."]) == 1
    assert sentence_chrf("xyz", ["Der Hund schläft."]) == 0


def test_bleu_of_a_corpus_by_hand():
    """Five of six words, four of five pairs, three of four triples and two of three runs of four are right."""
    found = corpus_scores(["the cat is on the rug", "a b"], [["the cat is on the mat"], ["a b", "c d"]])
    precisions = [7 / 8, 5 / 6, 3 / 4, 2 / 3]  # the second sentence adds two words and a pair
    product = 1.0
    for precision in precisions:
        product *= precision
    assert found["bleu"] == pytest.approx(product**0.25, abs=1e-6)


def test_every_system_is_scored_as_text_clean_hard_and_all():
    references = {("t", "a"): ["eins zwei drei vier"], ("t", "b"): ["fünf sechs sieben acht"], ("s", "c"): []}
    right = {"a": "eins zwei drei vier", "b": "fünf sechs sieben acht"}
    answers = [answer("text", "text", row, right[row]) for row in "ab"]
    answers += [
        answer("base", c, row, right[row] if c == "clean" else "nichts")
        for c in ("clean", "room")
        for row in "ab"
    ]
    found = {(row["condition"], row["system"]): row for row in translated(answers, references)}
    assert set(found) == {("text", "text"), ("clean", "base"), ("degraded", "base"), ("all", "base")}
    assert found["text", "text"]["bleu"] == pytest.approx(1) == found["clean", "base"]["chrf"]
    assert found["degraded", "base"]["bleu"] == 0 < found["all", "base"]["bleu"] < 1
    assert found["all", "base"]["n"] == 4
