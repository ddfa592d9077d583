"""The page of a suite that asks in several ways, and of suites that share ids."""

from dataclasses import fields

import numpy as np
import pytest
import soundfile

from speech_rba.config import load_params
from speech_rba.report import page
from speech_rba.evaluation.scoring import score_table
from speech_rba.records import Answer, Clip, Feature
from speech_rba.report.page import Results

SETTINGS = load_params().evaluate.model_copy(update={"num_bootstrap": 50})
SYSTEMS = ["text", "cascade", "base", "sft"]


def metrics_of(row: int, right: bool) -> dict[str, float]:
    """Of ten rows four are open, three choices and three requests to refuse."""
    if row % 10 < 4:
        return {"accuracy": float(right)}
    return {"accuracy": float(right), "unparsed": 0.0} if row % 10 < 7 else {"refused": float(right)}


def answers_to(suite: str, rows: range) -> list[Answer]:
    """Each row is heard clean and in a room; sft, which also reads, alone is right about what it hears."""
    answers = []
    for row in rows:
        for system in SYSTEMS:
            takes = {"text": ["text"], "sft": ["text", "clean", "room"]}.get(system, ["clean", "room"])
            answers += [
                Answer(suite=suite, row_id=f"r{row}", system=system,
                       clip_id="" if take == "text" else f"{suite}-r{row}-{take}",
                       condition=take, voice="v", heldout_voice=False, snr_db=5.0 if take == "room" else None, judge_hypothesis="",
                       response=f"{suite} {system} {row}", metrics=metrics_of(row, system == "sft"))
                for take in takes
            ]  # fmt: skip
    return answers


@pytest.fixture
def results(tmp_path) -> Results:
    answers = answers_to("mixed", range(40)) + answers_to("twin", range(9, 20))
    clips, features = {}, {}
    soundfile.write(tmp_path / "a.flac", np.zeros(160), 16_000)
    for a in answers:
        if a.system == "base":
            clips[a.clip_id] = Clip(
                id=a.clip_id, row_id=a.row_id, suite=a.suite, split="test", path="a.flac", transcript="Who?",
                spoken="Who?", voice="v", engine="e", heldout_voice=False, rate=1, pitch_semitones=0, level_db=-20,
                condition=a.condition, heldout_condition=False, strength={}, seed=0, duration_s=1, sha256="",
            )  # fmt: skip
            features[a.clip_id] = Feature(
                clip_id=a.clip_id, duration_s=1, rms_db=-20, peak=1, clipped_share=0, silence_share=0, words_per_s=1,
                judge_hypothesis="Who?", student_hypothesis=None, wer=0, mean_logprob=0,
            )  # fmt: skip
    scores = {"systems": SYSTEMS, "wer": [], "reward_hacking": {}} | score_table(answers, SYSTEMS, SETTINGS)
    scores["validation"] = scores["scores"]
    recordings = dict.fromkeys(clips, tmp_path / "a.flac")
    given = {"rows": {}, "clips": clips, "features": features, "answers": answers, "scores": scores}
    given |= {"recordings": recordings}
    return Results(**{field.name: {} for field in fields(Results)} | given)


def test_a_verdict_counts_the_clips_that_are_judged_so(results):
    found = page.verdict(results, "mixed", 50, 0)
    assert (found["metric"], found["num_clips"], found["num_rows"]) == (
        "accuracy",
        28,
        28,
    )  # 7 of ten rows, in a room
    assert (
        found["best"] == "sft"
        and found["over_base"]["difference"] == 1
        and found["over_base"]["sign"] == "better"
    )


def test_tables_and_figures_hold_each_metric_over_its_rows(results):
    for metric, n in (("accuracy", 56), ("unparsed", 24), ("refused", 24)):
        found = page.score_table(results, "mixed", metric)
        assert found["conditions"] == ["all", "clean", "room"] and found["num"] == {
            "all": n,
            "clean": n / 2,
            "room": n / 2,
        }
        assert found["text"]["n"] == n / 2
    assert all(
        "<svg" in page.suite_figures(results, "mixed", 50, 0)[name] for name in ("condition", "voice", "snr")
    )


def test_the_share_unparsed_stands_beside_accuracy(results):
    """Of six clips with a choice sft leaves one without a letter."""
    answers = [
        a.model_copy(update={"metrics": a.metrics | {"unparsed": 1.0}})
        if (a.system, a.row_id) == ("sft", "r4")
        else a
        for a in answers_to("choices", range(4, 7))
    ]
    scores = results.scores | score_table(answers, SYSTEMS, SETTINGS)
    cells = page.score_table(Results(**vars(results) | {"scores": scores}), "choices", "accuracy")
    by_system = {system: row["clean"]["unparsed"] for _, system, row in cells["systems"]}
    assert (
        by_system == {"cascade": 0, "base": 0, "sft": pytest.approx(1 / 3)} and cells["text"]["unparsed"] == 0
    )
    assert page.score_table(results, "mixed", "refused")["text"]["unparsed"] is None


@pytest.mark.parametrize(
    ("low", "metric", "told"), [(0.0, "refused", False), (0.1, "refused", True), (0.0, "chrf", True)]
)
def test_refusals_make_a_headline_only_where_the_text_system_refuses(low, metric, told):
    row = {"suite": "harm", "metric": metric, "condition": "text", "system": "text", "low": low}
    others = [row | {"system": "base", "low": 1.0}, row | {"suite": "other", "low": 1.0}]
    assert page.can_be_compared({"scores": [*others, row]}, {"suite": "harm", "metric": metric}) is told


def test_what_alignment_did_to_reading_stands_beside_the_paired_tests(results):
    found = page.gain_table(results, "mixed")
    assert found["conditions"][-1] == "text"
    assert dict(found["paired"])["sft − text"]["text"]["difference"] == 1


def test_an_example_shows_the_score_that_its_question_has(results):
    by_row = {row: page.example(results, f"mixed-r{row}-room") for row in (0, 4, 9)}
    assert [found["metric"] for found in by_row.values()] == ["accuracy", "accuracy", "refused"]
    assert [score for *_, score in by_row[9]["answers"]] == [0, 0, 0, 1]
    assert by_row[9]["answers"][0][2] == "mixed text 9"


def test_suites_that_share_ids_of_rows_are_told_apart(results):
    found = page.example(results, "twin-r9-room")
    assert [response for _, _, response, _ in found["answers"]] == [f"twin {system} 9" for system in SYSTEMS]
    picked = page.pick_examples(page.own_answers(results), 1000)
    assert len(picked) == len(set(picked)) == 2 * (40 + 11)


def test_an_example_shows_what_the_text_system_read(results):
    """The aligned system has an answer to the text too, which is not its answer to the clip."""
    answers = [
        a.model_copy(update={"response": "read"}) if a.system == "sft" and not a.clip_id else a
        for a in results.answers
    ]
    found = page.example(page.Results(**vars(results) | {"answers": answers}), "mixed-r0-clean")
    assert found["answers"][3][2] == "mixed sft 0"
