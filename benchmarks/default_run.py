"""Writes results/default_run.json from the artifacts of a finished `make run`, and its tables into the docs.

`python benchmarks/default_run.py --minutes MINUTES`, in the folder of the run; MINUTES is the time of
`make run` with its set-up, which no file of the run knows.
"""

import argparse
import json
import os
import platform
from pathlib import Path

from benchmarks import tables
from speech_rba.config import load_params
from speech_rba.registry.runs import git_commit, short_commit

ANSWERS = [("spoken_qa", "clean"), ("spoken_qa", "degraded"), ("attributes", "all")]
TEACHER_METRICS = ("teacher_logp", "prompt_retrieval_mrr")
COMPARED = [("alignment", "teacher_logp"), ("spoken_qa", "accuracy"), ("alignment", "prompt_retrieval_mrr")]
TRANSCRIBERS = {"Whisper": "unadapted Whisper", "student": "ASR adapter"}
DIGITS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True)
    options, params = parser.parse_args(), load_params()
    scores = json.loads(Path("artifacts/evaluate/scores.json").read_text())
    header = {
        "command": "make run",
        "commit": short_commit(git_commit())[:7],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "minutes": options.minutes,
        "seeds": [params.align.seed],
    }
    rows = answers(scores) + teacher(scores) + differences(scores) + recovery(scores) + wer(scores)
    tables.write_result(Path("results/default_run.json"), header, rows)
    tables.main()


def row(table: str, score: dict, value: float, **more) -> tables.Row:
    """A row of results/; `more` replaces fields of `score`."""
    fields = {"system": None, "suite": None, "condition": None, "metric": None, "low": None, "high": None}
    fields |= {key: score[key] for key in (*fields, "n") if key in score} | more
    rounded = {key: fields[key] and round(fields[key], DIGITS) for key in ("low", "high")}
    place = {key: fields[key] for key in ("suite", "condition", "metric")}
    head = {"table": table, "system": fields["system"], "versus": fields.get("versus")}
    return head | place | {"value": round(value, DIGITS)} | rounded | {"n": fields["n"]}


def score_of(scores: dict, system: str, suite: str, condition: str, metric: str) -> dict:
    """The score of a system; the text system has one for all conditions."""
    name = "text" if system == "text" else condition
    key = (system, suite, name, metric)
    return next(
        s for s in scores["scores"] if (s["system"], s["suite"], s["condition"], s["metric"]) == key
    ) | {"condition": condition}


def answers(scores: dict) -> list[tables.Row]:
    """Accuracy of each system; `n` is the number of clips, also for the text system."""
    rows = []
    for system in scores["systems"]:
        for suite, condition in ANSWERS:
            score = score_of(scores, system, suite, condition, "accuracy")
            num_clips = score_of(scores, "base", suite, condition, "accuracy")["n"]
            rows.append(row("answers", score, score["value"], n=num_clips))
    return rows


def teacher(scores: dict) -> list[tables.Row]:
    rows = []
    for system in scores["systems"]:
        for metric in TEACHER_METRICS:
            score = score_of(scores, system, "alignment", "degraded", metric)
            num_clips = score_of(scores, "base", "alignment", "degraded", metric)["n"]
            rows.append(row("teacher", score, score["value"], n=num_clips))
    return rows


def differences(scores: dict) -> list[tables.Row]:
    """Each method minus the student before alignment, in degraded conditions."""
    return [
        row("differences", pair, pair["difference"], system=pair["a"], versus="base")
        for suite, metric in COMPARED
        for pair in scores["paired"]
        if (pair["suite"], pair["metric"], pair["condition"], pair["b"])
        == (suite, metric, "degraded", "base")
    ]


def recovery(scores: dict) -> list[tables.Row]:
    return [
        row("recovery", share, share["value"], metric=f"recovery of {metric}")
        for suite, metric in COMPARED
        for share in scores["recovery"]
        if (share["suite"], share["metric"], share["condition"], share["system"])
        == (suite, metric, "degraded", "rba")
    ]


def wer(scores: dict) -> list[tables.Row]:
    """Word error rate in the degraded condition with the fewest errors, and in that with the most."""
    rows = []
    for transcriber, system in TRANSCRIBERS.items():
        rates = [
            rate
            for rate in scores["wer"]
            if (rate["suite"], rate["asr_adapter"]) == ("alignment", transcriber)
            and rate["condition"] != "clean"
        ]
        rates.sort(key=lambda rate: rate["value"])
        for name, rate in (("best", rates[0]), ("worst", rates[-1])):
            condition = f"degraded, the {name} condition"
            rows.append(
                row("wer", rate, rate["value"], system=system, condition=condition, metric="wer", n=None)
            )
    return rows


if __name__ == "__main__":
    main()
