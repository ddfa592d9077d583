"""The few numbers of scores.json that `dvc metrics` and `dvc plots` show."""

import csv
from pathlib import Path

SUMMARY_METRICS = ("accuracy", "refused", "followed", "chrf", "teacher_similarity")
SUMMARY_CONDITIONS = ("text", "clean", "degraded", "all")
CONDITION_FIELDS = ("suite", "condition", "system", "label", "accuracy", "low", "high", "n")


def summary(scores: dict) -> dict:
    """SUMMARY_METRICS by suite, metric, system and condition, and word error rates over all clips."""
    table: dict = {}
    for row in scores["scores"]:
        if row["metric"] in SUMMARY_METRICS and row["condition"] in SUMMARY_CONDITIONS:
            by_system = table.setdefault(row["suite"], {}).setdefault(row["metric"], {})
            by_system.setdefault(row["system"], {})[row["condition"]] = round(row["value"], 4)
    for (suite, transcriber), rate in overall_wer(scores["wer"]).items():
        table.setdefault(suite, {}).setdefault("wer", {})[transcriber] = round(rate, 4)
    return table | {"minutes": round(scores["minutes"], 2)}


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
    """The accuracy of every system by suite and condition, a row each."""
    return [
        {
            "suite": row["suite"],
            "condition": row["condition"],
            "system": row["system"],
            "label": f"{row['condition']}, {row['system']}",
            "accuracy": row["value"],
            "low": row["low"],
            "high": row["high"],
            "n": row["n"],
        }
        for row in scores["scores"]
        if row["metric"] == "accuracy"
    ]


def write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CONDITION_FIELDS)
        writer.writeheader()
        writer.writerows(rows)
