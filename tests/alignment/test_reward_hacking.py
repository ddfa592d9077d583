"""The reward-hacking checks by hand: the first two of six steps are compared with the last two."""

import json
from pathlib import Path

import pytest

from speech_rba.alignment.reward_hacking import reward_hacking, training_checks
from speech_rba.config import load_params

LIMITS = load_params(Path(__file__).parents[2] / "params.yaml").evaluate.reward_hacking
STABLE = {
    "reward": [1.0, 1.2, 1.2, 1.3, 1.4, 1.4],
    "completions/mean_length": [20, 22, 20, 21, 22, 20],
    "completions/clipped_ratio": [0.4, 0.5, 0.4, 0.5, 0.4, 0.5],
    "completions/repetition": [0.01, 0.02, 0.01, 0.0, 0.01, 0.02],
    "frac_reward_zero_std": [0.0, 0.125, 0.0, 0.0, 0.0, 0.0],
}


def steps(**changes) -> list[dict]:
    columns = STABLE | {name.replace("__", "/"): values for name, values in changes.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def paired(low: float, difference: float = 0.02) -> list[dict]:
    where = {"suite": "alignment", "condition": "all", "metric": "teacher_logp", "a": "rba", "b": "base"}
    other = where | {"condition": "degraded", "difference": 1.0, "low": 0.9}
    return [other, where | {"difference": difference, "low": low}]


def failed(folder: Path, rows: list[dict], tests: list[dict]) -> set[str]:
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"loss": 1.0}, *rows]))
    return {check["name"] for check in reward_hacking(folder, "rba", tests, LIMITS) if not check["passed"]}


def test_stable_training_passes_every_check(tmp_path):
    assert failed(tmp_path, steps(), paired(0.01)) == set()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("length_drift", {"completions__mean_length": [10, 10, 12, 14, 15, 16]}),  # 15.5 / 10
        ("length_drift", {"completions__mean_length": [30, 32, 20, 20, 10, 10]}),  # 31 / 10
        ("repetition", {"completions__repetition": [0.0, 0.0, 0.0, 0.1, 0.2, 0.22]}),  # 0.21
        ("cut_off", {"completions__clipped_ratio": [0.1, 0.1, 0.3, 0.3, 0.4, 0.5]}),  # 0.45 - 0.1
        ("no_spread", {"frac_reward_zero_std": [0.5, 0.5, 0.5, 0.5, 0.5, 0.75]}),  # 3.25 / 6
        ("divergence", {"kl": [0.0, 0.0, 0.2, 0.5, 0.9, 1.2]}),  # 1.05
    ],
)
def test_each_change_fails_one_check_alone(tmp_path, name, changes):
    assert failed(tmp_path, steps(**changes), paired(0.01)) == {name}


def test_a_rising_reward_without_a_better_held_out_measure_fails(tmp_path):
    assert failed(tmp_path, steps(), paired(-0.01)) == {"reward_alone"}
    falling = steps(reward=[1.4, 1.4, 1.3, 1.2, 1.2, 1.0])
    assert failed(tmp_path, falling, paired(-0.01)) == set()
    with pytest.raises(ValueError, match="does not compare rba with base"):
        failed(tmp_path, steps(), [])


def test_the_observed_values_by_hand():
    observed = {check["name"]: check["observed"] for check in training_checks(steps(kl=[0.1] * 6), LIMITS)}
    assert observed == pytest.approx(
        {"length_drift": 1.0, "repetition": 0.015, "cut_off": 0.0, "no_spread": 0.125 / 6, "divergence": 0.1}
    )


def test_too_few_steps_are_not_checked(tmp_path):
    assert failed(tmp_path, steps(completions__mean_length=[1, 1, 9, 9, 9, 9])[:5], []) == set()
