"""The parts of the page for a suite with several kinds of questions, and for suites that share ids."""

from dataclasses import fields

import numpy as np
import pytest
import soundfile

from speech_rba.config import load_params
from speech_rba.evaluation.comparisons import comparisons, described_metrics
from speech_rba.evaluation.score_table import score_table
from speech_rba.records import Answer, Clip, Feature
from speech_rba.report.examples import example, examples, pick_examples, word_diff
from speech_rba.report.figures import suite_figures
from speech_rba.report.results import Results
from speech_rba.report.tables import gain_table
from speech_rba.report.tables import score_table as page_table
from speech_rba.report.wording import headline, is_comparable, sign

PARAMS = load_params()
CONDITIONS = list(PARAMS.voice.conditions)
SETTINGS = PARAMS.evaluate.model_copy(update={"num_bootstrap": 50})
SYSTEMS = ["text", "cascade", "base", "sft"]


def metrics_of(row: int, correct: bool) -> dict[str, float]:
    """Of ten rows four have answers, three choices and three are requests to refuse."""
    if row % 10 < 4:
        return {"accuracy": float(correct)}
    return {"accuracy": float(correct), "unparsed": 0.0} if row % 10 < 7 else {"refused": float(correct)}


def answers_to(suite: str, rows: range) -> list[Answer]:
    """Each row has a clean clip and one in a room; sft, which also reads the text, is correct in all."""
    return [
        answer(suite, row, system, condition)
        for row in rows
        for system in SYSTEMS
        for condition in {"text": ["text"], "sft": ["text", "clean", "room"]}.get(system, ["clean", "room"])
    ]


def answer(suite: str, row: int, system: str, condition: str) -> Answer:
    return Answer(
        suite=suite,
        row_id=f"r{row}",
        system=system,
        clip_id="" if condition == "text" else f"{suite}-r{row}-{condition}",
        condition=condition,
        voice="v",
        heldout_voice=False,
        snr_db=5.0 if condition == "room" else None,
        judge_hypothesis="",
        response=f"{suite} {system} {row}",
        metrics=metrics_of(row, system == "sft"),
    )


def clip_of(answer: Answer) -> Clip:
    return Clip(
        id=answer.clip_id,
        row_id=answer.row_id,
        suite=answer.suite,
        split="test",
        path="a.flac",
        transcript="Who?",
        spoken="Who?",
        voice="v",
        engine="e",
        heldout_voice=False,
        rate=1,
        pitch_semitones=0,
        level_db=-20,
        condition=answer.condition,
        heldout_condition=False,
        strength={},
        seed=0,
        duration_s=1,
        sha256="",
    )


def feature_of(answer: Answer) -> Feature:
    return Feature(
        clip_id=answer.clip_id,
        duration_s=1,
        rms_db=-20,
        peak=1,
        clipped_share=0,
        silence_share=0,
        words_per_s=1,
        judge_hypothesis="Who?",
        student_hypothesis=None,
        wer=0,
        mean_logprob=0,
    )


def scores_of(answers: list[Answer]) -> dict:
    table = score_table(answers, SYSTEMS, SETTINGS)
    compared = comparisons(answers, table.scores, table.scores, SYSTEMS, SETTINGS)
    return {
        "systems": SYSTEMS,
        "wer": [],
        "people": [],
        "reward_hacking": {},
        "scores": table.scores,
        "paired": table.paired,
        "recovery": table.recovery,
        "comparisons": compared,
        "metrics": described_metrics(table.scores, []),
    }


def results_of(answers: list[Answer], recording) -> Results:
    spoken = [a for a in answers if a.system == "base"]
    given = {
        "rows": {},
        "clips": {a.clip_id: clip_of(a) for a in spoken},
        "features": {a.clip_id: feature_of(a) for a in spoken},
        "answers": answers,
        "conditions": CONDITIONS,
        "scores": scores_of(answers),
        "recordings": {a.clip_id: recording for a in spoken},
    }
    return Results(**{field.name: {} for field in fields(Results)} | given)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "a.flac"
    soundfile.write(path, np.zeros(160), 16_000)
    return path


@pytest.fixture(scope="module")
def results(recording) -> Results:
    return results_of(answers_to("mixed", range(40)) + answers_to("twin", range(9, 20)), recording)


def test_the_best_method_is_compared_on_the_clips_with_the_primary_metric(results):
    best = results.best[0]
    assert (best["metric"], best["system"], best["condition"]) == ("accuracy", "sft", "degraded")
    assert (best["num_clips"], best["num_rows"]) == (28, 28)  # 7 of ten rows, in a room
    base = best["pairs"][1]
    assert (base["system"], base["difference"]) == ("base", 1) and base["low"] > 0


@pytest.mark.parametrize(("metric", "n"), [("accuracy", 56), ("unparsed", 24), ("refused", 24)])
def test_a_table_scores_a_metric_over_the_rows_that_have_it(results, metric, n):
    table = page_table(results, "mixed", metric)
    assert table["conditions"] == ["all", "clean", "room"]
    assert table["num"] == {"all": n, "clean": n / 2, "room": n / 2} and table["text"]["n"] == n / 2


def test_every_suite_has_its_figures(results):
    figures = suite_figures(results, "mixed")
    assert all("<svg" in figures[name] for name in ("condition", "voice", "snr"))


def test_accuracy_shows_the_share_of_unparsed_choices(results, recording):
    """Of three clips with a choice sft leaves one without a letter."""
    answers = [
        a.model_copy(update={"metrics": a.metrics | {"unparsed": 1.0}})
        if (a.system, a.row_id) == ("sft", "r4")
        else a
        for a in answers_to("choices", range(4, 7))
    ]
    table = page_table(results_of(answers, recording), "choices", "accuracy")
    by_system = {system: cells["clean"]["unparsed"] for _, system, cells in table["systems"]}
    assert by_system == {"cascade": 0, "base": 0, "sft": pytest.approx(1 / 3)}
    assert table["text"]["unparsed"] == 0
    assert page_table(results, "mixed", "refused")["text"]["unparsed"] is None


@pytest.mark.parametrize(
    ("low", "metric", "expected"), [(0.0, "refused", False), (0.1, "refused", True), (0.0, "chrf", True)]
)
def test_refusals_are_compared_only_where_the_text_system_refuses(results, low, metric, expected):
    row = {"suite": "harm", "metric": metric, "condition": "text", "system": "text", "low": low}
    others = [row | {"system": "base", "low": 1.0}, row | {"suite": "other", "low": 1.0}]
    scores = {"scores": [*others, row], "metrics": results.scores["metrics"]}
    harm = Results(**vars(results) | {"scores": scores})
    assert is_comparable(harm, {"suite": "harm", "metric": metric}) is expected


def test_the_paired_tests_include_what_a_method_answers_to_text(results):
    table = gain_table(results, "mixed")
    assert table["conditions"][-1] == "text"
    assert dict(table["paired"])["sft − text"]["text"]["difference"] == 1


def test_an_example_shows_a_metric_that_its_answers_have(results):
    by_row = {row: example(results, f"mixed-r{row}-room") for row in (0, 4, 9)}
    assert [item["metric"] for item in by_row.values()] == ["accuracy", "accuracy", "refused"]
    assert [score for *_, score in by_row[9]["answers"]] == [0, 0, 0, 1]
    assert by_row[9]["answers"][0][2] == "mixed text 9"


def test_two_suites_may_share_row_ids(results):
    twin = example(results, "twin-r9-room")
    assert [response for _, _, response, _ in twin["answers"]] == [f"twin {system} 9" for system in SYSTEMS]
    ids = [item["clip"].id for item in examples(results, 1000)]
    assert len(ids) == len(set(ids)) == 2 * (40 + 11)


def test_an_example_shows_the_answer_to_the_clip_and_not_to_the_text(results):
    answers = [
        a.model_copy(update={"response": "text"}) if a.system == "sft" and not a.clip_id else a
        for a in results.answers
    ]
    item = example(Results(**vars(results) | {"answers": answers}), "mixed-r0-clean")
    assert item["answers"][3][2] == "mixed sft 0"


def test_examples_vary_in_condition_then_voice_and_begin_with_degraded_ones():
    clips = [("clean", "x"), ("clean", "y"), ("babble", "x"), ("babble", "x"), ("babble", "y")]
    answers = [
        answer("s", 0, "base", "clean").model_copy(
            update={"clip_id": str(number), "condition": condition, "voice": voice}
        )
        for number, (condition, voice) in enumerate(clips)
    ]
    assert pick_examples(answers, CONDITIONS, 2) == ["2", "1"]  # one of each condition, in another voice
    assert pick_examples(answers, CONDITIONS, 4) == ["2", "4", "1", "0"]
    assert len(pick_examples(answers, CONDITIONS, 9)) == 5


def test_word_diff_marks_the_words_that_differ():
    transcript, hypothesis = word_diff("Who built the Tower?", "who built a tower")
    assert transcript == [("Who", True), ("built", True), ("the", False), ("Tower?", True)]
    assert hypothesis == [("who", True), ("built", True), ("a", False), ("tower", True)]


def best_of(suite: str, low: float, num_rows: int) -> dict:
    cascade = {"difference": 0.062, "low": low, "high": 0.1}
    return {
        "suite": suite,
        "metric": "accuracy",
        "condition": "degraded",
        "system": "rba",
        "num_rows": num_rows,
        "pairs": [cascade, {"difference": -0.01}],
    }


def headline_of(results: Results, best: list[dict]) -> str:
    scores = results.scores | {"comparisons": {"best": best}}
    return headline(Results(**vars(results) | {"scores": scores}))


def test_the_headline_states_whether_a_difference_is_significant(results):
    better, open_ = best_of("spoken_qa", 0.01, 20), best_of("spoken_qa", 0.0, 20)
    assert headline_of(results, [better, open_]) == (
        "In degraded conditions, rba is better than the cascade on spoken qa "
        "(+6.2 points accuracy; −1.0 over base) and rba does not differ significantly from the "
        "cascade on spoken qa (+6.2 points accuracy; −1.0 over base)."
    )
    assert headline_of(results, [better, better]).count("is better than the cascade") == 1
    assert sign(-0.2, -0.1) == "worse"


def test_the_headline_compares_nothing_with_too_few_texts(results):
    expected = "Only 19 held-out texts have answers: too few to compare the systems."
    assert headline_of(results, [best_of("spoken_qa", 0.01, 19)]) == expected
