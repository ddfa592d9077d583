"""What DVC shows: dvc.yaml names files and columns that the stages write."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from speech_rba.evaluation.summary import CONDITION_FIELDS, write_summary

ROOT = Path(__file__).parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
WRITTEN = ("scores.json", "accuracy.csv", "loss.json", "reward.json")
PLOTS = {name: plot for item in DVC["plots"] for name, plot in item.items()}


def score(metric: str, system: str, condition: str, value: float) -> dict:
    labels = {"suite": "quiz", "metric": metric, "system": system, "condition": condition}
    return labels | {"value": value, "low": 0.0, "high": 1.0, "n": 4}


SCORES = {
    "scores": [
        score("accuracy", "text", "text", 0.75),
        score("accuracy", "sft", "babble", 0.5),
        score("accuracy", "sft", "all", 0.51234),
        score("token_f1", "sft", "all", 0.1),
    ],
    "wer": [
        {"suite": "quiz", "condition": "clean", "asr_adapter": "student", "n": 3, "value": 0.1},
        {"suite": "quiz", "condition": "babble", "asr_adapter": "student", "n": 1, "value": 0.5},
    ],
    "people": [
        {
            "suite": "voices",
            "set": name,
            "condition": condition,
            "transcribers": [
                {"transcriber": "Whisper", "wer": 0.25},
                {"transcriber": "student", "wer": 0.125},
            ],
            "difference": {"value": -0.125, "low": low, "high": low and -low},
        }
        for name, condition, low in (
            ("all", "clean", -0.5),
            ("all", "hum", -0.5),
            ("readers", "degraded", None),
        )
    ],
    "minutes": 4.567,
}
LOGS = {
    "sft": [{"step": 1, "phase": "sft", "loss": 3.0}, {"step": 2, "phase": "sft", "loss": 2.0}],
    "rba": [
        {"step": 1, "phase": "sft", "loss": 3.0},
        {"step": 2, "phase": "rba", "loss": 0.1, "reward": 0.4},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_summary(folder, SCORES, LOGS)
    return folder


def test_the_metrics_hold_the_main_scores_by_suite_metric_system_and_condition(folder):
    metrics = json.loads((folder / "scores.json").read_text())
    assert metrics["quiz"]["accuracy"] == {"text": {"text": 0.75}, "sft": {"all": 0.5123}}
    assert metrics["quiz"]["wer"] == {"student": 0.2}  # (3 * 0.1 + 1 * 0.5) / 4
    assert metrics["voices"]["people"] == {
        "all": {"clean": {"Whisper": 0.25, "student": 0.125, "difference": -0.125, "low": -0.5, "high": 0.5}},
        "readers": {"degraded": {"Whisper": 0.25, "student": 0.125, "difference": -0.125}},
    }
    assert metrics["minutes"] == 4.57 and "token_f1" not in metrics["quiz"]


def test_the_loss_leaves_out_the_policy_loss_and_steps_without_a_value_are_null(folder):
    loss, reward = (json.loads((folder / f"{name}.json").read_text()) for name in ("loss", "reward"))
    assert loss == [{"step": 1, "sft": 3.0, "rba": 3.0}, {"step": 2, "sft": 2.0, "rba": None}]
    assert reward == [{"step": 2, "sft": None, "rba": 0.4}]


def test_git_and_not_dvc_keeps_the_metrics_and_plots():
    """A clone then has those of every commit, without DVC's cache."""
    stage = DVC["stages"]["evaluate"]
    files = [item for item in (*stage["outs"], *stage["metrics"]) if isinstance(item, dict)]
    kept = {path for item in files for path, options in item.items() if options == {"cache": False}}
    assert {path for plot in PLOTS.values() for path in plot["y"]} < kept
    assert kept == {f"metrics/evaluate/{name}" for name in WRITTEN}


def test_the_files_are_those_that_dvc_yaml_lists(folder):
    assert {file.name for file in folder.iterdir()} == set(WRITTEN)


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_names_a_file_and_columns_that_evaluate_writes(folder, name):
    plot = PLOTS[name]
    ((path, columns),) = plot["y"].items()
    assert Path(path).parent == Path("metrics/evaluate")
    file = folder / Path(path).name
    if file.suffix == ".csv":
        with open(file, encoding="utf-8") as lines:
            assert {plot["x"], columns} <= set(next(csv.reader(lines))) == set(CONDITION_FIELDS)
    else:
        assert columns == "${align.methods}"
        assert set(json.loads(file.read_text())[0]) == {plot["x"], *LOGS}
