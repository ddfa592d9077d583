"""Stops everything after it when the data broke a critical rule.

report.json, accepted.jsonl -> gate.json
"""

import hashlib
import json
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import Clip, Record, read_jsonl
from speech_rba.stages import main, publish


class Check(Record):
    model_config = ConfigDict(strict=True)  # "false" as text must not count as true or false

    name: str
    critical: bool
    passed: bool
    observed: str
    expected: str


class Part(Record):
    """What validation says of some clips."""

    model_config = ConfigDict(strict=True)

    num_clips: int
    num_accepted: int
    num_quarantined: int
    reasons: dict[str, int]
    checks: list[Check]


class SuitePart(Part):
    refused: dict[str, int]


class Report(Part):
    suites: dict[str, SuitePart]


def run(params: Params, validation: Path, out: Path) -> None:
    """Publishes gate.json when the data may be trained on; what it holds depends on the training data alone.

    Raises:
        UserError: a critical check failed (each is listed, those of suites too), or the report is missing or malformed.
    """
    report = read_report(validation / "report.json")
    accepted = validation / "accepted.jsonl"
    checks = [check for check in report.checks if check.critical]
    checks += amounts(params, report, read_jsonl(accepted, Clip))
    of_suites = [(f"{name}: ", check) for name, part in report.suites.items() for check in part.checks]
    if failed := [
        (name, c) for name, c in [*(("", c) for c in checks), *of_suites] if c.critical and not c.passed
    ]:
        lines = [
            f"  {name}{check.name}: {check.observed}; expected: {check.expected}" for name, check in failed
        ]
        raise UserError(
            "\n".join(
                [
                    "the data may not be trained on:",
                    *lines,
                    f"see {validation}/report.html and quarantine.jsonl",
                ]
            )
        )
    with open(accepted, "rb") as file:
        data_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    gate = {"passed": True, "checks": [check.model_dump() for check in checks], "data_sha256": data_sha256}
    with publish(out) as folder:
        (folder / "gate.json").write_text(json.dumps(gate, indent=2) + "\n")
    print(f"gate passed: {len(checks)} critical checks, {report.num_accepted} clips, data {data_sha256[:12]}")


def read_report(path: Path) -> Report:
    """The report of the validation.

    Raises:
        UserError: it is missing, malformed or without a critical check.
    """
    try:
        report = Report.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the validate stage first") from error
    except ValidationError as error:
        raise UserError(f"{path} is no report of the validate stage, run that again: {error}") from error
    if not any(check.critical for check in report.checks):
        raise UserError(f"{path} holds no critical check: run the validate stage again")
    return report


def amounts(params: Params, report: Report, accepted: list[Clip]) -> list[Check]:
    """What the gate itself asks: files that agree with the report, few clips lost, enough left to train on."""
    share = report.num_quarantined / max(report.num_clips, 1)
    num_train = sum(clip.split == "train" for clip in accepted)
    most, least = params.gate.max_quarantine_share, params.gate.min_train_clips
    agrees = report.num_accepted == len(accepted) == report.num_clips - report.num_quarantined
    found = f"{len(accepted)} clips in accepted.jsonl"
    wanted = [
        ("report_agrees", agrees, found, f"{report.num_accepted} as in report.json"),
        ("quarantine_share", share <= most, f"{share:.1%}", f"at most {most:.1%}"),
        ("train_clips", num_train >= least, f"{num_train} clips", f"at least {least}"),
    ]
    return [
        Check(name=name, critical=True, passed=passed, observed=observed, expected=expected)
        for name, passed, observed, expected in wanted
    ]


if __name__ == "__main__":
    main(run)
