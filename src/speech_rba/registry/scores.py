"""What the registry reads in scores.json: its values as MLflow metrics, and the value that ranks a method."""

import re

from speech_rba.errors import UserError


def score_metrics(scores: dict) -> dict[str, float]:
    """Metrics by name, `system/suite/condition/metric` for test, the same below `validation/`."""
    metrics = {}
    for row in scores["validation"]:
        metrics["validation/{system}/{suite}/{condition}/{metric}".format(**row)] = row["value"]
    for row in scores["scores"]:
        metrics["{system}/{suite}/{condition}/{metric}".format(**row)] = row["value"]
    for row in scores["recovery"]:
        metrics["{system}/{suite}/{condition}/{metric}_recovery".format(**row)] = row["value"]
    for row in scores["wer"]:
        metrics["transcriber/{asr_adapter}/{suite}/{condition}/wer".format(**row)] = row["value"]
    for row in scores["people"]:
        if row["condition"] in ("clean", "degraded"):
            place = re.sub(r"[^\w ./:-]", "_", "{suite}/{set}/{condition}".format(**row), flags=re.ASCII)
            rates = {part["transcriber"]: part["wer"] for part in row["transcribers"]}
            rates["difference"] = row["difference"]["value"]
            metrics |= {f"people/{name}/{place}/wer": rate for name, rate in rates.items()}
    for row in scores["cost"]:
        metrics |= {f"{row['system']}/cost/{key}": row[key] for key in ("tokens_per_s", "real_time_factor")}
    return {name: value for name, value in metrics.items() if value is not None}


def score_on_test(scores: dict, method: str, rank_by: str) -> float:
    """The value on test items of `rank_by`, a suite/condition/metric: the higher the better.

    Raises:
        UserError: scores.json has no such row.
    """
    if (value := _score_of(scores["scores"], method, rank_by)) is None:
        raise UserError(
            f"scores.json has no {rank_by} of {method}: evaluate it, or set register.rank_by to what it has"
        )
    return value


def score_on_validation(scores: dict, method: str, rank_by: str) -> float:
    """The value on validation items of `rank_by`, by which a method is selected.

    Raises:
        UserError: scores.json has no such row.
    """
    if (value := _score_of(scores["validation"], method, rank_by)) is None:
        rows = [row for row in scores["validation"] if row["system"] == method]
        available = ", ".join("{suite}/{condition}/{metric}".format(**row) for row in rows) or "none at all"
        raise UserError(
            f"scores.json has no validation score {rank_by} of {method}: set register.rank_by to one that it "
            f"has ({available})"
        )
    return value


def _score_of(rows: list[dict], method: str, rank_by: str) -> float | None:
    """The value in the row of `method` and `rank_by`, if any."""
    for row in rows:
        if row["system"] == method and rank_by == "{suite}/{condition}/{metric}".format(**row):
            return row["value"]
    return None
