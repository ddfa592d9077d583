"""Stops all later stages when the data break a critical rule.

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
    model_config = ConfigDict(strict=True)  # the text "false" must not count as a boolean

    name: str
    critical: bool
    passed: bool
    observed: str
    expected: str


class Part(Record):
    """The report of validate on one part of the data."""

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
    """Publishes gate.json when the data are fit for training; its content depends on the training data alone.

    Raises:
        UserError: a critical check failed (each is listed, those of suites too), or the report is missing or
            malformed.
    """
    report = read_report(validation / "report.json")
    accepted = validation / "accepted.jsonl"
    checks = [check for check in report.checks if check.critical]
    checks += amount_checks(params, report, read_jsonl(accepted, Clip))
    if failed := failed_lines(checks, report.suites):
        raise UserError(
            "\n".join(
                [
                    "the data are not fit for training:",
                    *failed,
                    f"see {validation}/data_docs/index.html and quarantine.jsonl",
                ]
            )
        )
    with open(accepted, "rb") as file:
        data_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    gate = {"passed": True, "checks": [check.model_dump() for check in checks], "data_sha256": data_sha256}
    with publish(out) as folder:
        (folder / "gate.json").write_text(json.dumps(gate, indent=2) + "\n")
    print(f"gate passed: {len(checks)} critical checks, {report.num_accepted} clips, data {data_sha256[:12]}")


def failed_lines(checks: list[Check], suites: dict[str, SuitePart]) -> list[str]:
    """A line for each critical check that failed, of the rows and of the suites."""
    of_suites = [(f"{name}: ", check) for name, part in suites.items() for check in part.checks]
    return [
        f"  {suite}{check.name}: {check.observed}; expected: {check.expected}"
        for suite, check in [*(("", check) for check in checks), *of_suites]
        if check.critical and not check.passed
    ]


def read_report(path: Path) -> Report:
    """The report of the validate stage.

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


def amount_checks(params: Params, report: Report, accepted: list[Clip]) -> list[Check]:
    """The gate's own checks: files agree with the report, few clips are quarantined, enough are left."""
    num_accepted, share = len(accepted), report.num_quarantined / max(report.num_clips, 1)
    num_train = sum(clip.split == "train" for clip in accepted)
    max_share, min_train = params.gate.max_quarantine_share, params.gate.min_train_clips
    agrees = report.num_accepted == num_accepted == report.num_clips - report.num_quarantined
    in_file, in_report = f"{num_accepted} clips in accepted.jsonl", f"{report.num_accepted} as in report.json"
    return [
        critical("report_agrees", agrees, in_file, in_report),
        critical("quarantine_share", share <= max_share, f"{share:.1%}", f"at most {max_share:.1%}"),
        critical("train_clips", num_train >= min_train, f"{num_train} clips", f"at least {min_train}"),
    ]


def critical(name: str, passed: bool, observed: str, expected: str) -> Check:
    return Check(name=name, critical=True, passed=passed, observed=observed, expected=expected)


if __name__ == "__main__":
    main(run)
