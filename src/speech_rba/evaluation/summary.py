"""What `dvc metrics` and `dvc plots` show: a few numbers of scores.json, and the training curves."""

import csv
import json
from pathlib import Path

SUMMARY_METRICS = ("accuracy", "refused", "followed", "chrf", "teacher_similarity")
SUMMARY_CONDITIONS = ("text", "clean", "degraded", "all")
CONDITION_FIELDS = ("suite", "condition", "system", "label", "accuracy", "low", "high", "n")


def summary(scores: dict) -> dict:
    """SUMMARY_METRICS by suite, metric, system and condition, word error rates over all clips, and those on
    recordings that are only transcribed by set and condition."""
    table: dict = {}
    for row in scores["scores"]:
        if row["metric"] in SUMMARY_METRICS and row["condition"] in SUMMARY_CONDITIONS:
            by_system = table.setdefault(row["suite"], {}).setdefault(row["metric"], {})
            by_system.setdefault(row["system"], {})[row["condition"]] = round(row["value"], 4)
    for (suite, transcriber), rate in overall_wer(scores["wer"]).items():
        table.setdefault(suite, {}).setdefault("wer", {})[transcriber] = round(rate, 4)
    for row in scores["people"]:
        if row["condition"] in SUMMARY_CONDITIONS:
            by_set = table.setdefault(row["suite"], {}).setdefault("people", {}).setdefault(row["set"], {})
            by_set[row["condition"]] = people_numbers(row)
    return table | {"minutes": round(scores["minutes"], 2)}


def people_numbers(row: dict) -> dict[str, float]:
    """The word error rate of each transcriber, and the difference with its interval where it has one."""
    pair = row["difference"]
    numbers = {part["transcriber"]: part["wer"] for part in row["transcribers"]}
    numbers |= {"difference": pair["value"], "low": pair["low"], "high": pair["high"]}
    return {name: round(value, 4) for name, value in numbers.items() if value is not None}


def overall_wer(rows: list[dict]) -> dict[tuple[str, str], float]:
    """The mean word error rate by suite and transcriber, weighted by the clips of each condition."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["suite"], row["asr_adapter"]), []).append(row)
    return {
        key: sum(row["value"] * row["n"] for row in group) / sum(row["n"] for row in group)
        for key, group in groups.items()
    }


def condition_rows(scores: dict) -> list[dict]:
    """The accuracy of every system by suite and condition of SUMMARY_CONDITIONS, a row each."""
    return [
        {
            "suite": row["suite"],
            "condition": row["condition"],
            "system": row["system"],
            "label": f"{row['suite']}, {row['condition']}, {row['system']}",
            "accuracy": row["value"],
            "low": row["low"],
            "high": row["high"],
            "n": row["n"],
        }
        for row in scores["scores"]
        if row["metric"] == "accuracy" and row["condition"] in SUMMARY_CONDITIONS
    ]


def write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CONDITION_FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def curves(logs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """`loss` and `reward`: a row for each step with the value of each method, None where it has none.

    The policy loss of rba is left out: it is no distance from the teacher.
    """
    series = {
        "loss": {m: {r["step"]: r["loss"] for r in log if is_distillation(r)} for m, log in logs.items()},
        "reward": {m: {r["step"]: r["reward"] for r in log if "reward" in r} for m, log in logs.items()},
    }
    tables = {}
    for name, by_method in series.items():
        steps = sorted({step for values in by_method.values() for step in values})
        tables[name] = [
            {"step": step} | {method: values.get(step) for method, values in by_method.items()}
            for step in steps
        ]
    return tables


def is_distillation(row: dict) -> bool:
    return "loss" in row and row["phase"] != "rba"


def write_summary(folder: Path, scores: dict, logs: dict[str, list[dict]]) -> None:
    """Writes scores.json, accuracy.csv, loss.json and reward.json."""
    (folder / "scores.json").write_text(json.dumps(summary(scores), indent=2) + "\n")
    write_csv(folder / "accuracy.csv", condition_rows(scores))
    for name, rows in curves(logs).items():
        (folder / f"{name}.json").write_text(json.dumps(rows) + "\n")
