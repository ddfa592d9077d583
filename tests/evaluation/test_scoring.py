"""The score table of suites that ask in several ways, and of systems that also read, counted by hand."""

import pytest

from speech_rba.config import load_params
from speech_rba.evaluation.instructions import followed
from speech_rba.evaluation.scoring import score_table
from speech_rba.evaluation.translation import translated
from speech_rba.records import Answer, Instruction

SETTINGS = load_params().evaluate.model_copy(update={"num_bootstrap": 50})
SYSTEMS = ["text", "cascade", "base", "sft"]
NO_COMMA = Instruction(name="punctuation:no_comma", arguments={})


def answer(
    system: str, row: str, condition: str = "clean", suite: str = "s", said: str = "", **metrics: float
) -> Answer:
    """An answer to a clip, or to the text where the condition says so."""
    read = condition == "text"
    return Answer(suite=suite, row_id=row, clip_id="" if read else f"{row}-{condition}", system=system,
                  condition=condition, voice="v", heldout_voice=False, snr_db=None, judge_hypothesis="", response=said,
                  metrics=metrics)  # fmt: skip


def to_row(row: str, suite: str = "s", said: str = "", **metrics: float) -> list[Answer]:
    """What every system says to one row, text read and one clip hypotheses, scored alike."""
    answers = [answer("text", row, "text", suite, said, **metrics)]
    return answers + [answer(system, row, "clean", suite, said, **metrics) for system in SYSTEMS[1:]]


def table(answers: list[Answer], kind: str = "scores") -> dict[tuple, dict]:
    names = ("system",) if kind != "paired" else ("a", "b")
    rows = score_table(answers, SYSTEMS, SETTINGS)[kind]
    found = {tuple(row[n] for n in ("suite", "condition", "metric", *names)): row for row in rows}
    assert len(found) == len(rows)
    return found


MIXED = {
    "choice": to_row("a", accuracy=1.0, unparsed=0.0) + to_row("b", accuracy=0.0, unparsed=1.0),
    "open": to_row("c", accuracy=1.0),
    "refuse": to_row("d", refused=1.0),
    "judged": to_row("e", teacher_pmi=0.5),
    "instructions": to_row("f", followed=1.0, followed_loosely=1.0),
    "translation": to_row("g", chrf=0.25),
}


@pytest.mark.parametrize("first", MIXED)
def test_each_metric_is_scored_over_the_answers_that_have_it(first):
    order = [first, *(kind for kind in MIXED if kind != first)]
    scores = table([a for kind in order for a in MIXED[kind]])
    expected = {"accuracy": (2 / 3, 3), "unparsed": (1 / 2, 2), "refused": (1, 1), "teacher_pmi": (0.5, 1)}
    expected |= {"followed": (1, 1), "followed_loosely": (1, 1), "chrf": (0.25, 1)}
    for metric, (value, n) in expected.items():
        for where in [("text", metric, "text"), *(("clean", metric, system) for system in SYSTEMS[1:])]:
            assert (scores["s", *where]["value"], scores["s", *where]["n"]) == (pytest.approx(value), n), (
                where
            )
    assert {metric for _, _, metric, _ in scores} == set(expected)


def test_a_condition_is_scored_where_it_was_heard_with_the_metric():
    answers = to_row("a", accuracy=1.0) + to_row("b", refused=0.0)
    answers += [answer(system, "b", "room", refused=1.0) for system in SYSTEMS[1:]]
    scores = table(answers)
    assert {condition for _, condition, metric, _ in scores if metric == "accuracy"} == {
        "text",
        "all",
        "clean",
    }
    assert (
        scores["s", "degraded", "refused", "base"]["n"] == 1
        and scores["s", "all", "refused", "base"]["value"] == 0.5
    )


def test_two_suites_may_share_the_ids_of_rows_and_clips():
    answers = (
        to_row("a", "one", accuracy=1.0) + to_row("a", "two", accuracy=0.0) + to_row("a", "judge_hypothesis")
    )
    scores = table(answers)
    for system, condition in [("text", "text"), ("base", "clean"), ("sft", "all")]:
        assert scores["one", condition, "accuracy", system]["value"] == 1
        assert scores["two", condition, "accuracy", system]["value"] == 0
    assert "judge_hypothesis" not in {
        suite for suite, *_ in scores
    }  # a suite that is only heard has no metric


def test_what_an_aligned_system_reads_is_no_clip():
    """It reads three rows, of which it has one right and the text system two; of its clips all three are right."""
    answers = []
    for row, text, read in (("a", 1.0, 1.0), ("b", 1.0, 0.0), ("c", 0.0, 0.0)):
        answers += [answer("text", row, "text", accuracy=text), answer("sft", row, "text", accuracy=read)]
        answers += [answer(system, row, "clean", accuracy=1.0) for system in SYSTEMS[1:]]
    scores = table(answers)
    assert (scores["s", "text", "accuracy", "sft"]["value"], scores["s", "text", "accuracy", "text"]["value"]) == (
        pytest.approx(1 / 3), pytest.approx(2 / 3)
    )  # fmt: skip
    assert {scores["s", condition, "accuracy", "sft"]["n"] for condition in ("text", "all", "clean")} == {3}
    assert scores["s", "all", "accuracy", "sft"]["value"] == 1
    pairs = table(answers, "paired")
    assert pairs["s", "text", "accuracy", "sft", "text"]["difference"] == pytest.approx(-1 / 3)
    assert [key for key in pairs if key[1] == "text"] == [("s", "text", "accuracy", "sft", "text")]
    assert pairs["s", "clean", "accuracy", "sft", "base"]["difference"] == 0


def test_translations_and_instructions_of_a_mixed_suite_are_scored_over_their_rows():
    answers = to_row("a", said="Dilo.") + to_row("b", said="Well, no.") + to_row("c", said="yes")
    answers += to_row("b", "other", said="Dilo.")
    answers.append(answer("sft", "a", "text", said="Nada."))
    references = {("s", "a"): ["Dilo."], ("s", "b"): [], ("s", "c"): []}
    found = {(row["suite"], row["condition"], row["system"]): row for row in translated(answers, references)}
    assert all(row["n"] == 1 for row in found.values()) and {suite for suite, *_ in found} == {"s"}
    assert found["s", "clean", "base"]["chrf"] == 1 > found["s", "text", "sft"]["chrf"]
    asked = {("s", "a"): [], ("s", "b"): [NO_COMMA], ("s", "c"): [NO_COMMA]}
    followed_by = {(row["condition"], row["system"]): row for row in followed(answers, asked)}
    assert followed_by["text", "text"]["instruction_strict"] == 0.5 and followed_by["clean", "base"]["n"] == 2


def test_what_is_forgotten_by_a_system_that_reads_is_counted_by_the_text_system():
    answers = [answer("sft", "b", "text", said="Well, no."), answer("text", "b", "text", said="No.")]
    text, sft = followed(answers, {("s", "b"): [NO_COMMA]})
    assert (text["system"], text["forgetting"], sft["system"], sft["forgetting"]) == ("text", 0, "sft", 1)
