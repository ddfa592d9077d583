"""What a reviewer reads: the candidates that wait for a decision, and the versions side by side."""

import re
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion

from speech_rba.errors import UserError
from speech_rba.registry.bundle import has_all_tags, stored_scores
from speech_rba.registry.runs import short_commit
from speech_rba.registry.scores import score_on_test
from speech_rba.registry.store import connect, refusals
from speech_rba.registry.versions import REGISTRATION, by_alias, candidates, no_candidate


@refusals()
def waiting(model_name: str) -> list[dict]:
    """The candidates registered after the champion's, newest first, one row each.

    A version that a person made in MLflow says so, and a newest version that was deleted there has a row.

    Raises:
        UserError: something was registered, and no candidate is left.
    """
    client, pool = connect(model_name), candidates(model_name)
    champion = by_alias(client, model_name, "champion")
    versions = client.search_model_versions(f"name = '{pool}'")
    if not versions and (champion or REGISTRATION.exists()):
        raise UserError(no_candidate(client, model_name))
    rows = []
    if versions and not by_alias(client, pool, "candidate"):
        rows.append({"version": "newest", "method": "deleted in MLflow"})
    newest_first = sorted(versions, key=lambda version: int(version.version), reverse=True)
    last_promoted = candidate_number(champion, pool)
    return rows + [review_row(version) for version in newest_first if int(version.version) > last_promoted]


def candidate_number(champion: ModelVersion | None, pool: str) -> int:
    """The number of the candidate that the champion is a copy of, 0 where it is none."""
    match = re.fullmatch(rf"models:/{re.escape(pool)}/(\d+)", (champion.source or "") if champion else "")
    return int(match[1]) if match else 0


def review_row(version: ModelVersion) -> dict:
    """What a reviewer needs to know of a candidate; the score is of test items."""
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    row = {"version": str(version.version), "registered": created.isoformat(timespec="minutes")}
    if not has_all_tags(version):
        return row | {"method": "made by hand in MLflow: cannot be promoted"}
    method, rank_by = version.tags["method"], version.tags["rank_by"]
    return row | {
        "method": method,
        rank_by: score_on_test(stored_scores(version), method, rank_by),
        "reward_hacking": version.tags["reward_hacking"],
        "git_commit": short_commit(version.tags["git_commit"]),
        "report": version.tags["report"],
    }


@refusals()
def compare(model_name: str) -> list[dict]:
    """Candidate, champion and previous as rows of a table, with their scores of all test clips.

    Raises:
        UserError: none of them exists.
    """
    client = connect(model_name)
    rows = []
    for alias in ("candidate", "champion", "previous"):
        version = by_alias(client, candidates(model_name) if alias == "candidate" else model_name, alias)
        if version:
            rows.append({"alias": alias, "version": str(version.version)} | comparison_row(version))
    if not rows:
        raise UserError(no_candidate(client, model_name))
    if rows[0]["alias"] != "candidate":
        rows.insert(0, {"alias": "candidate", "version": "", "method": no_candidate(client, model_name)})
    return rows


def comparison_row(version: ModelVersion) -> dict:
    """The origin of a version and its scores over all conditions."""
    if not has_all_tags(version):
        return {"method": "made by hand in MLflow"}
    tags = version.tags
    row = {"method": tags["method"], "git_commit": short_commit(tags["git_commit"])}
    row["data_sha256"] = tags["data_sha256"][:12]
    for score in stored_scores(version)["scores"]:
        if score["system"] == tags["method"] and score["condition"] == "all":
            row[f"{score['suite']}/{score['metric']}"] = score["value"]
    return row
