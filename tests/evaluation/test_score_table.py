"""The score table of suites with several kinds of questions, and of methods that also read the text."""

import pytest

from speech_rba.config import load_params
from speech_rba.evaluation.score_table import score_table
from speech_rba.evaluation.scorers import corpus_tables
from speech_rba.records import Answer, Instruction, Question

SETTINGS = load_params().evaluate.model_copy(update={"num_bootstrap": 50})
SYSTEMS = ["text", "cascade", "base", "sft"]
NO_COMMA = Instruction(name="punctuation:no_comma", arguments={})


def answer(
    system: str, row: str, condition: str = "clean", suite: str = "s", response: str = "", **metrics: float
) -> Answer:
    """An answer to a clip, or to the text where the condition says so."""
    return Answer(
        suite=suite,
        row_id=row,
        clip_id="" if condition == "text" else f"{row}-{condition}",
        system=system,
        condition=condition,
        voice="v",
        heldout_voice=False,
        snr_db=None,
        judge_hypothesis="",
        response=response,
        metrics=metrics,
    )


def to_row(row: str, suite: str = "s", response: str = "", **metrics: float) -> list[Answer]:
    """Equal answers of every system to one row, as text and as one clean clip."""
    answers = [answer("text", row, "text", suite, response, **metrics)]
    return answers + [answer(system, row, "clean", suite, response, **metrics) for system in SYSTEMS[1:]]


def scores_of(answers: list[Answer]) -> dict[tuple, dict]:
    """The rows of `scores` by suite, condition, metric and system."""
    rows = score_table(answers, SYSTEMS, SETTINGS).scores
    by_key = {(row["suite"], row["condition"], row["metric"], row["system"]): row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


MIXED = {
    "choice": to_row("a", accuracy=1.0, unparsed=0.0) + to_row("b", accuracy=0.0, unparsed=1.0),
    "open": to_row("c", accuracy=1.0),
    "refuse": to_row("d", refused=1.0),
    "judged": to_row("e", teacher_pmi=0.5),
    "instructions": to_row("f", followed=1.0, followed_loosely=1.0),
    "translation": to_row("g", chrf=0.25),
}
EXPECTED = {
    "accuracy": (2 / 3, 3),
    "unparsed": (1 / 2, 2),
    "refused": (1, 1),
    "teacher_pmi": (0.5, 1),
    "followed": (1, 1),
    "followed_loosely": (1, 1),
    "chrf": (0.25, 1),
}


@pytest.mark.parametrize("first", MIXED)
def test_each_metric_is_scored_over_the_answers_that_have_it(first):
    order = [first, *(kind for kind in MIXED if kind != first)]
    scores = scores_of([a for kind in order for a in MIXED[kind]])
    for metric, (value, n) in EXPECTED.items():
        for system in SYSTEMS:
            row = scores["s", "text" if system == "text" else "clean", metric, system]
            assert (row["value"], row["n"]) == (pytest.approx(value), n)
    assert {metric for _, _, metric, _ in scores} == set(EXPECTED)


def test_a_condition_is_scored_where_its_answers_have_the_metric():
    answers = to_row("a", accuracy=1.0) + to_row("b", refused=0.0)
    answers += [answer(system, "b", "room", refused=1.0) for system in SYSTEMS[1:]]
    scores = scores_of(answers)
    accurate = {condition for _, condition, metric, _ in scores if metric == "accuracy"}
    assert accurate == {"text", "all", "clean"}
    assert scores["s", "degraded", "refused", "base"]["n"] == 1
    assert scores["s", "all", "refused", "base"]["value"] == 0.5


def test_two_suites_may_share_the_ids_of_rows_and_clips():
    answers = to_row("a", "one", accuracy=1.0) + to_row("a", "two", accuracy=0.0) + to_row("a", "recordings")
    scores = scores_of(answers)
    for system, condition in [("text", "text"), ("base", "clean"), ("sft", "all")]:
        assert scores["one", condition, "accuracy", system]["value"] == 1
        assert scores["two", condition, "accuracy", system]["value"] == 0
    assert "recordings" not in {suite for suite, *_ in scores}  # its answers have no metric


def test_an_answer_to_the_text_does_not_count_as_an_answer_to_a_clip():
    """sft has one of three texts right, the text system two; of the clips sft has all right."""
    answers = []
    for row, text, sft in (("a", 1.0, 1.0), ("b", 1.0, 0.0), ("c", 0.0, 0.0)):
        answers += [answer("text", row, "text", accuracy=text), answer("sft", row, "text", accuracy=sft)]
        answers += [answer(system, row, "clean", accuracy=1.0) for system in SYSTEMS[1:]]
    scores = scores_of(answers)
    assert scores["s", "text", "accuracy", "sft"]["value"] == pytest.approx(1 / 3)
    assert scores["s", "text", "accuracy", "text"]["value"] == pytest.approx(2 / 3)
    assert {scores["s", condition, "accuracy", "sft"]["n"] for condition in ("text", "all", "clean")} == {3}
    assert scores["s", "all", "accuracy", "sft"]["value"] == 1


def test_a_method_that_reads_the_text_is_compared_with_the_text_system_alone():
    answers = [answer(system, "a", "text", accuracy=float(system == "text")) for system in ("text", "sft")]
    answers += [answer(system, "a", accuracy=1.0) for system in SYSTEMS[1:]]
    paired = score_table(answers, SYSTEMS, SETTINGS).paired
    (text,) = [row for row in paired if row["condition"] == "text"]
    assert (text["a"], text["b"], text["difference"]) == ("sft", "text", -1)
    clean = {(row["a"], row["b"]): row["difference"] for row in paired if row["condition"] == "clean"}
    assert clean == {("base", "cascade"): 0, ("sft", "cascade"): 0, ("sft", "base"): 0}


def test_corpus_scores_of_a_mixed_suite_are_over_the_rows_of_their_kind():
    answers = to_row("a", response="Dilo.") + to_row("b", response="Well, no.") + to_row("c", response="yes")
    answers.append(answer("sft", "a", "text", response="Nada."))
    questions = {
        ("s", "a"): Question(id="a", prompt="", answers=[], translations=["Dilo."]),
        ("s", "b"): Question(id="b", prompt="", answers=[], instructions=[NO_COMMA]),
        ("s", "c"): Question(id="c", prompt="", answers=[], instructions=[NO_COMMA]),
    }
    tables = {table["kind"]: table["rows"] for table in corpus_tables(answers, questions)}
    translated, followed = (
        {(row["condition"], row["system"]): row for row in tables[kind]}
        for kind in ("translations", "instructions")
    )
    assert {row["n"] for row in translated.values()} == {1}
    assert translated["clean", "base"]["corpus_chrf"] == 1 > translated["text", "sft"]["corpus_chrf"]
    assert followed["text", "text"]["instruction_strict"] == 0.5 and followed["clean", "base"]["n"] == 2
