"""The comparison of alignment methods: the rows that it writes to results/."""

import json

import numpy as np
import pytest

from benchmarks import methods, tables
from speech_rba.records import Answer


def answer(system: str, row: str, condition: str, accuracy: float) -> Answer:
    clip = "" if system == "text" else f"{row}-{condition}"
    return Answer(
        suite="spoken_qa",
        row_id=row,
        clip_id=clip,
        system=system,
        condition=condition,
        voice="",
        heldout_voice=False,
        snr_db=None,
        judge_hypothesis="",
        response="",
        metrics={"accuracy": accuracy},
    )


def answers_of(condition: str, scores: dict[str, tuple[float, float]]) -> list[Answer]:
    """One answer of each system to each of two rows."""
    return [
        answer(system, row, "text" if system == "text" else condition, score)
        for system, pair in scores.items()
        for row, score in zip(("a", "b"), pair, strict=True)
    ]


@pytest.fixture
def rows() -> list[tables.Row]:
    by_system = {"text": (1, 1), "cascade": (0, 0), "base": (0, 1), "rba-0": (1, 1), "rba-1": (0, 1)}
    (scores,) = methods.all_scores(answers_of("hum", by_system), ["rba"], [0, 1])
    return methods.compared(scores, [0, 1])


def values(rows: list[tables.Row], table: str) -> dict[tuple[str, str | None], float]:
    return {(row["system"], row["versus"]): row["value"] for row in rows if row["table"] == table}


def test_a_system_has_its_mean_over_seeds_and_clips(rows):
    expected = {"text": 1.0, "cascade": 0.0, "base": 0.5, "rba": 0.75}
    assert values(rows, "systems") == {(system, None): value for system, value in expected.items()}


def test_rba_is_compared_with_every_other_system_and_by_seed(rows):
    assert values(rows, "differences") == {("rba", "cascade"): 0.75, ("rba", "base"): 0.25}
    assert values(rows, "by_seed") == {
        ("rba, seed 0", "cascade"): 1.0,
        ("rba, seed 1", "cascade"): 0.5,
        ("rba, seed 0", "base"): 0.5,
        ("rba, seed 1", "base"): 0.0,
    }


def test_recovery_is_the_share_of_the_gap_between_cascade_and_text(rows):
    assert values(rows, "recovery") == {("base", None): 0.5, ("rba", None): 0.75}


def test_clean_clips_are_tables_apart():
    scores = methods.Scores("spoken_qa", "clean", "accuracy", ["a"], [1.0], {"cascade": np.array([[0.0]])})
    scores.by_system["rba"] = np.array([[1.0]])
    assert {row["table"] for row in methods.compared(scores, [0])} == {
        "clean_systems",
        "clean_recovery",
        "clean_differences",
        "clean_by_seed",
    }


def test_a_written_result_is_read_and_shown_as_it_is(rows, tmp_path):
    tables.write_result(tmp_path / "result.json", {"command": "make compare", "seeds": [0, 1]}, rows)
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == rows
    written = [
        row for row in tables.read_result(tmp_path / "result.json")["rows"] if row["table"] == "systems"
    ]
    assert tables.render(written, "system").splitlines()[2:4] == ["| text | 100 |", "| cascade | 0 |"]
