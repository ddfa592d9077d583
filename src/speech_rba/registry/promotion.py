"""Promotion and rollback of the champion, and the audit log of both in mlruns/audit.jsonl."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

import mlflow
from mlflow.entities.model_registry import ModelVersion

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.registry.bundle import has_all_tags, label, stored_answers, verify
from speech_rba.registry.non_regression import Check, non_regression
from speech_rba.registry.store import STORE, connect, locked, refusals, user
from speech_rba.registry.versions import by_alias, by_number, candidates, copy_of, no_candidate, numbers_of

NO_REWARD_HACKING = "none"


@dataclass(frozen=True)
class Change:
    """Another version becomes the champion: which, why, and what was checked; `old` is None for the first."""

    action: str
    old: ModelVersion | None
    new: ModelVersion
    reason: str
    hashes: dict[str, str]
    notes: dict = field(default_factory=dict)


@refusals()
def promote(params: Params, version: str | None, force: bool, reason: str) -> dict:
    """The audit record, after a candidate became champion and the champion previous.

    The newest candidate is promoted when `version` is None. Repeating a promotion, also after a kill, changes
    nothing that is done already. `force` skips the reward-hacking check and the comparison with the champion,
    nothing else, and needs a reason. The limits are those of `params`, the reviewer's.

    Raises:
        UserError: no such candidate; it was changed, did not pass its gate or gives other answers than
            before; without `force`, it failed a reward-hacking check or is worse than the champion.
        UserError: the server does not let this user promote.
    """
    if force and not reason:
        raise UserError("force needs a reason, which goes into the audit log: give one")
    model_name = params.register_.model_name
    client = connect(model_name)
    with locked(STORE / "promote.lock"):
        champion, candidate = by_alias(client, model_name, "champion"), choose(client, model_name, version)
        computed, copy = verify(candidate), copy_of(client, model_name, candidate)
        is_champion = champion is not None and copy is not None and copy.version == champion.version
        checks = promotion_checks(params, candidate, champion, is_champion)
        if not force:
            refuse_unless_passed(candidate, checks)
        if copy is None:
            copy = client.copy_model_version(f"models:/{candidate.name}/{candidate.version}", model_name)
        if (
            champion and not is_champion
        ):  # first: a kill between the two leaves the old champion in use and known
            client.set_registered_model_alias(model_name, "previous", champion.version)
        notes = {"checks": [str(c) for c in checks], "forced": [c.name for c in checks if not c.passed]}
        return set_champion(client, Change("promote", champion, copy, reason, computed, notes))


def choose(client: mlflow.MlflowClient, model_name: str, number: str | None) -> ModelVersion:
    """The candidate with this number, the newest when it is None.

    Raises:
        UserError: there is none.
    """
    pool = candidates(model_name)
    if number is None:
        version = by_alias(client, pool, "candidate")
        problem = "" if version else no_candidate(client, model_name)
    else:
        version, existing = by_number(client, pool, number), numbers_of(client, pool)
        has = f"it has {', '.join(map(str, existing))}" if existing else "it has none, run `make run`"
        problem = f"{pool} has no version {number}: {has}"
    if version is None:
        raise UserError(problem)
    return version


def promotion_checks(
    params: Params, candidate: ModelVersion, champion: ModelVersion | None, is_champion: bool
) -> list[Check]:
    """The checks that `force` overrules; the champion is not compared with itself."""
    checks = [reward_hacking_check(candidate)]
    if champion and not is_champion:
        return checks + comparison_checks(params, candidate, champion)
    if champion is None and last_record(params.register_.model_name)["to"]:
        finding = "deleted in MLflow, or its alias: there is nothing to compare with"
        checks.append(Check("champion", False, finding))
    return checks


def reward_hacking_check(candidate: ModelVersion) -> Check:
    """Passed where no reward-hacking check failed in the candidate's training."""
    failed = candidate.tags["reward_hacking"]
    passed = failed == NO_REWARD_HACKING
    return Check("reward hacking in training", passed, failed if passed else f"{failed}; look at the report")


def comparison_checks(params: Params, candidate: ModelVersion, champion: ModelVersion) -> list[Check]:
    """The candidate against the champion; a different base is reported by a check that always passes."""
    if not has_all_tags(champion):
        finding = f"{label(champion)} was made by hand in MLflow: it has no answers to compare"
        return [Check("champion", False, finding)]
    checks = []
    if candidate.tags["base_sha256"] != champion.tags["base_sha256"]:
        finding = "differs from the champion's: more than the adapter changed"
        checks.append(Check("base", True, finding))
    candidate_answers, champion_answers = stored_answers(candidate), stored_answers(champion)
    if candidate_answers is None or champion_answers is None:
        without = label(candidate if candidate_answers is None else champion)
        return [*checks, Check("answers", False, f"{without} has none stored that can be compared")]
    limits, rank_by = params.register_.limits, candidate.tags["rank_by"]
    return checks + non_regression(candidate_answers, champion_answers, rank_by, limits, params.evaluate)


def refuse_unless_passed(candidate: ModelVersion, checks: list[Check]) -> None:
    """Raises UserError with a line for each check that did not pass."""
    if failed := [f"\n  {check}" for check in checks if not check.passed]:
        raise UserError(
            f"candidate {candidate.version} is not promoted; keep the champion, or use force with a reason:"
            + "".join(failed)
        )


@refusals()
def rollback(model_name: str, reason: str) -> dict:
    """The audit record, after the previous version became the champion again; twice is the same as once.

    Raises:
        UserError: there is no previous version, or it fails a check that `promote` makes.
        UserError: the server does not let this user promote.
    """
    client = connect(model_name)
    with locked(STORE / "promote.lock"):
        previous = by_alias(client, model_name, "previous")
        if previous is None:
            raise UserError(
                f"{model_name} has no previous version: a rollback needs two promotions before it"
            )
        champion = by_alias(client, model_name, "champion")
        return set_champion(client, Change("rollback", champion, previous, reason, verify(previous)))


def set_champion(client: mlflow.MlflowClient, change: Change) -> dict:
    """The last audit record of this model, which says that `change.new` is the champion; then it is."""
    last = last_record(change.new.name)
    client.set_registered_model_alias(change.new.name, "champion", change.new.version)
    after = str(change.new.version)  # sqlite gives a number, a server a text
    if last["to"] == after:
        return last
    record = audit_record(change, last["to"])
    with open(STORE / "audit.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def audit_record(change: Change, last: str | None) -> dict:
    """One line of the audit log; `last` is the champion by the log before it."""
    after, current = str(change.new.version), str(change.old.version) if change.old else None
    # when a killed process has moved the alias but not written, the log still knows the champion before
    before = last if current == after else current
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": user(),
        "action": change.action,
        "model": change.new.name,
        "from": before,
        "to": after,
        "reason": change.reason,
        "hashes": change.hashes,
    } | change.notes


def last_record(model_name: str) -> dict:
    """The last line of the audit log about this model; `to` is None where there is none."""
    audit = STORE / "audit.jsonl"
    records = [json.loads(line) for line in audit.read_text().splitlines()] if audit.exists() else []
    return next((r for r in reversed(records) if r["model"] == model_name), {"to": None})
