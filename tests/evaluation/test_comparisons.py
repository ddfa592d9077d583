"""The best method of a suite, and scores by voice and by SNR, by hand."""

import pytest

from speech_rba.config import load_params
from speech_rba.errors import UserError
from speech_rba.evaluation.comparisons import by_group, check_same_clips, chosen_method, snr_bins
from speech_rba.records import Answer

SETTINGS = load_params().evaluate.model_copy(update={"num_bootstrap": 50})
SYSTEMS = ["text", "cascade", "base", "sft", "rba"]
SCORES = [{"suite": suite, "metric": "accuracy"} for suite in ("quiz", "alignment")]


def validation_of(suite: str, condition: str, sft: float, rba: float) -> list[dict]:
    labels = {"suite": suite, "condition": condition, "metric": "accuracy"}
    return [labels | {"system": "sft", "value": sft}, labels | {"system": "rba", "value": rba}]


def test_the_best_method_has_the_best_validation_score_of_the_condition():
    validation = validation_of("quiz", "degraded", 0.5, 0.4) + validation_of("quiz", "all", 0.1, 0.9)
    assert chosen_method("quiz", "degraded", SCORES, validation, SYSTEMS) == "sft"
    assert chosen_method("quiz", "all", SCORES, validation, SYSTEMS) == "rba"


def test_a_suite_without_validation_clips_takes_the_best_method_of_the_synthesized_rows():
    validation = validation_of("alignment", "all", 0.1, 0.9)
    assert chosen_method("quiz", "degraded", SCORES, validation, SYSTEMS) == "rba"
    with pytest.raises(UserError, match="validation scored no method on quiz nor on alignment"):
        chosen_method("quiz", "degraded", SCORES, [], SYSTEMS)


@pytest.mark.parametrize("clips", [{"a": ("r", 1.0)}, {}])
def test_systems_with_other_clips_cannot_be_compared(clips):
    values = {system: {"a": ("r", 1.0), "b": ("r", 0.0)} for system in ("cascade", "base", "sft")}
    check_same_clips(values, "quiz", ["text", *values])
    with pytest.raises(UserError, match="not scored on the same clips of quiz"):
        check_same_clips(values | {"rba": clips}, "quiz", ["text", *values, "rba"])


def test_the_bins_of_the_snr_are_equally_wide():
    assert snr_bins({"a": 0.0, "b": 4.9, "c": 8.0}) == {"a": 1.0, "b": 5.0, "c": 7.0}
    assert snr_bins({}) == {}


def test_a_group_has_the_mean_of_its_clips_by_system():
    answers = [
        Answer(
            suite="s",
            row_id=clip,
            clip_id=clip,
            system="base",
            condition="clean",
            voice="v",
            heldout_voice=False,
            snr_db=None,
            judge_hypothesis="",
            response="",
            metrics={"accuracy": value},
        )
        for clip, value in (("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 0.0))
    ]
    rows = by_group(answers, {"a": "x", "b": "x", "c": "y"}, "accuracy", SYSTEMS, SETTINGS)
    assert [(row["system"], row["group"], row["value"], row["n"]) for row in rows] == [
        ("base", "x", 0.5, 2),
        ("base", "y", 1.0, 1),
    ]
