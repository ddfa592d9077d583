"""The record: MLflow runs, the registry of students, and the log of who promoted which.

Who trains registers versions of the model `NAME-candidates`, whose alias `candidate` is the newest. Who reviews copies
one to the model `NAME`, with the aliases `champion` (in use) and `previous` (the champion before, which `rollback`
brings back): a server that tells users apart can then keep trainers from promoting. A version is one folder in the
store, whose `artifacts/bundle` holds base, adapter, gate.json, scores.json and check/ (clips, and the answers that the
student gave before it was stored).
"""

import fcntl
import getpass
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from speech_rba.errors import UserError
from speech_rba.params import Params

# MLflow reads these at import. The time limit is that of one silent connection, not of an upload.
for name, value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # a bar for each of many small files
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(name, value)

import mlflow  # noqa: E402
from mlflow.data.code_dataset_source import CodeDatasetSource  # noqa: E402
from mlflow.data.meta_dataset import MetaDataset  # noqa: E402
from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.entities.model_registry import ModelVersion  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types.schema import ColSpec, DataType, Schema  # noqa: E402

STORE = Path("mlruns")
BUNDLE = "artifacts/bundle"  # within a stored model; MLflow sets the first part
NO_ALARMS = "none"
SERVING_NEEDS = {"torch", "transformers", "peft", "mlflow", "pandas", "pydantic", "soxr", "soundfile", "scipy"}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside the block no other process holds `path`; the kernel lets go of it when a process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def database() -> str:
    """The address of the database of runs and models in STORE; who finds it locked waits for a minute."""
    return f"sqlite:///{STORE.resolve()}/mlflow.db?timeout=60"


def connect(model_name: str) -> mlflow.MlflowClient:
    """A client of MLFLOW_TRACKING_URI, else of the store in mlruns/, with `model_name` as the active experiment."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", database())
    local = uri.startswith("sqlite:")
    with locked(STORE / "setup.lock"):  # two processes that create one database at once both fail
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient()
        if not client.get_experiment_by_name(model_name):
            # a server puts the files where it wants
            client.create_experiment(model_name, (STORE / "artifacts").resolve().as_uri() if local else None)
    mlflow.set_experiment(model_name)
    return client


@contextmanager
def open_run(model_name: str, work: Path) -> Iterator[str]:
    """Inside the block one MLflow run is open; yields its id.

    The run is found again by the name of `work`, so a stage that was killed goes on with its own run and closes it.
    A second process with the same inputs waits. SIGTERM ends the run as failed instead of leaving it running.
    """
    client = connect(model_name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with locked(work / "lock"):
        experiment = client.get_experiment_by_name(model_name)
        found = client.search_runs([experiment.experiment_id], f"tags.inputs = '{work.name}'", max_results=1)
        run_id = found[0].info.run_id if found else None
        with mlflow.start_run(run_id, tags={"inputs": work.name, "git_commit": git_commit()}) as run:
            yield run.info.run_id


def git_commit() -> str:
    """The commit that is checked out; "none" outside a repository or before its first commit."""
    done = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "none"


def flatten(values: dict, where: str = "") -> dict[str, object]:
    """The leaves of nested dicts by dotted name."""
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat


def log_pipeline(run_id: str, params: Params, scores: dict, methods: Path, report: Path) -> None:
    """The open run holds params, data hashes, every score, the training curves and the report page."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    items = [Param(k, str(v)) for k, v in flatten(params.model_dump(by_alias=True)).items()]
    for start in range(0, len(items), 100):  # the store's limits: 100 params, 1000 metrics a call
        client.log_batch(run_id, params=items[start : start + 100])
    metrics = [Metric(k, v, run.info.start_time, 0) for k, v in score_metrics(scores).items()]
    for method in params.align.methods:
        metrics += training_metrics(methods / method, run.info.start_time)
    for start in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[start : start + 1000])
    for name, digest in data_hashes().items():
        mlflow.log_input(MetaDataset(CodeDatasetSource({"dvc": name}), name=name, digest=digest), context="training")
    mlflow.log_artifacts(str(report), "report")


def score_metrics(scores: dict) -> dict[str, float]:
    """The values of scores.json by metric name, `system/suite/condition/metric`."""
    metrics = {}
    for row in scores["scores"]:
        metrics["{system}/{suite}/{condition}/{metric}".format(**row)] = row["value"]
    for row in scores["recovery"]:
        metrics["{system}/{suite}/{condition}/{metric}_recovery".format(**row)] = row["value"]
    for row in scores["wer"]:
        metrics["heard/{ears}/{suite}/{condition}/wer".format(**row)] = row["value"]
    for row in scores["cost"]:
        metrics |= {f"{row['system']}/cost/{key}": row[key] for key in ("tokens_per_s", "real_time_factor")}
    return {name: value for name, value in metrics.items() if value is not None}


def numbers(values: dict) -> list[tuple[str, float]]:
    """The items whose value is a number: a metric holds nothing else."""
    return [(k, v) for k, v in values.items() if isinstance(v, int | float)]


def training_metrics(folder: Path, start_time: int) -> list[Metric]:
    """What one method logged while it was trained, `train/method/phase/name`, and its totals.

    The time stamps follow from the run's start, so that logging them again after a kill adds no second point.
    """
    where = f"train/{folder.name}"
    totals = json.loads((folder / "training.json").read_text())
    metrics = [Metric(f"{where}/{k}", v, start_time, 0) for k, v in numbers(totals)]
    for line in (folder / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        step, phase, stamp = row.pop("step"), row.pop("phase"), start_time + int(row["minutes"] * 60_000)
        metrics += [Metric(f"{where}/{phase}/{k}", v, stamp, step) for k, v in numbers(row)]
    return metrics


def data_hashes() -> dict[str, str]:
    """DVC's md5 of rows and clips, by output path; empty without a dvc.lock that names them."""
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    outs = [out for name in ("synthesize", "voice") for out in stages.get(name, {}).get("outs", [])]
    return {out["path"]: out["md5"] for out in outs}


def log_student(bundle: Path, serving: Path) -> str:
    """The id of the model that is now stored with the open run: the code file `serving` and the folder `bundle`."""
    assert bundle.name == Path(BUNDLE).name, bundle  # MLflow names its copy after the folder
    needs = [r for r in importlib.metadata.requires("speech-rba") if re.match(r"[\w-]+", r)[0] in SERVING_NEEDS]
    warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature says it all
    signature = ModelSignature(Schema([ColSpec(DataType.binary, "audio")]), Schema([ColSpec(DataType.string)]))
    info = mlflow.pyfunc.log_model(
        name="student",
        python_model=str(serving),
        artifacts={"bundle": str(bundle)},
        signature=signature,
        pip_requirements=needs,
    )
    return info.model_id


def digest(path: Path) -> str:
    """The sha256 of a file, or of the names and contents of all files in a folder; of nothing when there is none."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        # MLflow writes registered_model_meta, Python __pycache__, into what they read
        if not file.is_file() or file.name == "registered_model_meta" or "__pycache__" in file.parts:
            continue
        if file != path:
            total.update(file.relative_to(path).as_posix().encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


@contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """Inside the block a copy of the model at `uri`, so that what is hashed is what is loaded, from any store."""
    with TemporaryDirectory() as folder:
        yield Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))


def hashes(model: Path) -> dict[str, str]:
    """The sha256 of a fetched model and of its parts, by tag name."""
    bundle = model / BUNDLE
    parts = {"adapter": bundle / "adapter/adapter_model.safetensors", "gate": bundle / "gate.json"}
    parts |= {"base": bundle / "base", "model": model}
    return {f"{name}_sha256": digest(path) for name, path in parts.items()}


def check_answers(model: Path) -> None:
    """Holds when a fetched model, loaded as any user loads it, gives the answers that were stored with it.

    Raises:
        UserError: an answer differs.
    """
    import pandas as pd

    check = model / BUNDLE / "check"
    expected = json.loads((check / "answers.json").read_text())
    audio = pd.DataFrame({"audio": [(check / name).read_bytes() for name in expected]})
    answers = mlflow.pyfunc.load_model(str(model)).predict(audio)
    for (name, before), after in zip(expected.items(), answers, strict=True):
        if before != after:
            raise UserError(
                f"reloaded, the model answers {after!r} to {name} instead of {before!r}: what loads it differs from "
                "what trained it; compare the package versions, then register again"
            )


def registered(run_id: str) -> ModelVersion | None:
    """The version that was registered from this run, if any."""
    return next(iter(mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id}'")), None)


def register(model_name: str, run_id: str, model_id: str, description: str, tags: dict[str, str]) -> ModelVersion:
    """The new candidate for `model_name`, after the stored model gave the answers stored with it.

    It has its tags, the hashes among them, and its description from its first moment.

    Raises:
        UserError: an answer differs; nothing is registered.
    """
    client = mlflow.MlflowClient()
    with fetched(f"models:/{model_id}") as model:
        check_answers(model)
        tags = tags | hashes(model)
    name = candidates(model_name)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = client.get_logged_model(model_id).artifact_location
    return client.create_model_version(name, source, run_id, tags, description=description, model_id=model_id)


def set_candidate(version: ModelVersion) -> None:
    """`version` is the one that `promote` takes."""
    mlflow.MlflowClient().set_registered_model_alias(version.name, "candidate", version.version)


def tag(model_name: str, run_id: str, version: str, name: str, value: str) -> None:
    """The run and the candidate that it registered have the tag `name`."""
    client = connect(model_name)
    client.set_tag(run_id, name, value)
    client.set_model_version_tag(candidates(model_name), version, name, value)


def candidates(model_name: str) -> str:
    """The registered model that candidates are versions of."""
    return f"{model_name}-candidates"


def copied(client: mlflow.MlflowClient, model_name: str, candidate: ModelVersion) -> ModelVersion | None:
    """The version of `model_name` that is a copy of `candidate`, if any."""
    source = f"models:/{candidate.name}/{candidate.version}"
    found = [v for v in client.search_model_versions(f"name = '{model_name}'") if v.source == source]
    return max(found, key=lambda v: int(v.version), default=None)


def by_alias(client: mlflow.MlflowClient, model_name: str, alias: str) -> ModelVersion | None:
    """The version with this alias, if any."""
    found = client.search_registered_models(f"name = '{model_name}'")
    number = found[0].aliases.get(alias) if found else None
    return client.get_model_version(model_name, number) if number else None


def by_number(client: mlflow.MlflowClient, model_name: str, number: str) -> ModelVersion | None:
    """The version with this number, if any."""
    return next((v for v in client.search_model_versions(f"name = '{model_name}'") if str(v.version) == number), None)


def verify(version: ModelVersion) -> dict[str, str]:
    """The hashes of a version that passed its gate, is stored unchanged and answers as it did.

    Raises:
        UserError: it does not; the message says what is wrong.
    """
    what = f"{version.name} version {version.version}"
    with fetched(f"models:/{version.name}/{version.version}") as model:
        found = hashes(model)
        if wrong := [name for name, value in found.items() if version.tags.get(name) != value]:
            raise UserError(
                f"{what} was changed after it was registered ({', '.join(wrong)} differ from its tags): register anew"
            )
        if json.loads((model / BUNDLE / "gate.json").read_text())["passed"] is not True:
            raise UserError(f"{what} did not pass its gate: mend the data, register again")
        check_answers(model)
    return found


def stored_scores(version: ModelVersion) -> dict:
    """The scores.json that was stored with a version."""
    return mlflow.artifacts.load_dict(f"models:/{version.name}/{version.version}/{BUNDLE}/scores.json")


def fetch_champion(model_name: str, folder: Path) -> Path | None:
    """The champion's adapter in `folder/<version>`, fetched once; None without a champion.

    Raises:
        UserError: it was changed after it was registered.
    """
    champion = by_alias(connect(model_name), model_name, "champion")
    if champion is None:
        return None
    out = folder / str(champion.version)
    if not out.exists():
        with fetched(f"models:/{model_name}/{champion.version}") as model:
            if hashes(model)["adapter_sha256"] != champion.tags["adapter_sha256"]:
                raise UserError(f"the adapter of {model_name} version {champion.version} was changed: roll back")
            partial = out.with_name(f".{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(model / BUNDLE / "adapter", partial)
            os.replace(partial, out)
    return out


def waiting(model_name: str) -> list[dict]:
    """The candidates registered after the one that became champion, newest first, with what a reviewer asks of each."""
    client = connect(model_name)
    champion = by_alias(client, model_name, "champion")
    since = int(champion.source.rsplit("/")[-1]) if champion else 0
    found = [v for v in client.search_model_versions(f"name = '{candidates(model_name)}'") if int(v.version) > since]
    return [
        {
            "version": str(version.version),
            "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="minutes"),
            "method": version.tags["method"],
            version.tags["rank_by"]: main_score(
                stored_scores(version), version.tags["method"], version.tags["rank_by"]
            ),
            "alarms": version.tags["alarms"],
            "git_commit": version.tags["git_commit"][:12],
            "report": version.tags["report"],
        }
        for version in sorted(found, key=lambda v: int(v.version), reverse=True)
    ]


def main_score(scores: dict, method: str, rank_by: str) -> float:
    """The value of `rank_by`, a suite/condition/metric, which ranks methods and versions: the higher the better.

    Raises:
        UserError: scores.json has no such row.
    """
    for row in scores["scores"]:
        if row["system"] == method and rank_by == "{suite}/{condition}/{metric}".format(**row):
            return row["value"]
    raise UserError(f"scores.json has no {rank_by} of {method}: evaluate it, or set register.rank_by to what it has")


def promote(model_name: str, version: str | None, force: bool, reason: str) -> dict:
    """The audit record, after a candidate, the newest when `version` is None, became champion, the champion previous.

    Doing it again, also after a kill, changes nothing that is done already. `force` skips the alarms and the comparison
    of scores, nothing else, and needs a reason.

    Raises:
        UserError: no such candidate; it was tampered with, did not pass its gate or answers otherwise than before;
            or `force` is not given and an alarm was raised in its training or it scores lower than the champion.
        UserError: the server does not let this user promote.
    """
    if force and not reason:
        raise UserError("force needs a reason, which goes into the audit log: give one")
    client = connect(model_name)
    with locked(STORE / "promote.lock"), refusals():
        pool, champion = candidates(model_name), by_alias(client, model_name, "champion")
        chosen = by_number(client, pool, version) if version else by_alias(client, pool, "candidate")
        if chosen is None:
            wanted = f"version {version}" if version else "candidate"
            raise UserError(f"{pool} has no {wanted}: run the register stage, or give the number of a version")
        found, mine = verify(chosen), copied(client, model_name, chosen)
        is_new = champion is not None and (mine is None or mine.version != champion.version)
        if not force:
            refuse_an_alarm(chosen)
        if is_new and not force:
            refuse_a_worse(chosen, champion)
        if mine is None:
            mine = client.copy_model_version(f"models:/{chosen.name}/{chosen.version}", model_name)
        if is_new:  # first, so that a kill between the two leaves the old champion in use and known
            client.set_registered_model_alias(model_name, "previous", champion.version)
        return crown(client, "promote", champion, mine, reason, found)


@contextmanager
def refusals() -> Iterator[None]:
    """Inside the block a server's refusal is a UserError that says who was refused."""
    try:
        yield
    except MlflowException as error:
        if "Permission denied" not in str(error):  # the code is lost where MLflow wraps it
            raise
        raise UserError(f"the MLflow server does not let {user()} do this: ask a reviewer") from error


def refuse_an_alarm(chosen: ModelVersion) -> None:
    """Raises UserError where the training of `chosen` raised an alarm."""
    if (raised := chosen.tags["alarms"]) != NO_ALARMS:
        raise UserError(
            f"candidate {chosen.version} raised alarms in training: {raised}; look at the report, then keep the "
            "champion, or use force with a reason"
        )


def refuse_a_worse(chosen: ModelVersion, champion: ModelVersion) -> None:
    """Raises UserError where `chosen` scores lower than the champion."""
    rank_by = chosen.tags["rank_by"]
    ours, theirs = (main_score(stored_scores(v), v.tags["method"], rank_by) for v in (chosen, champion))
    if ours < theirs:
        raise UserError(
            f"candidate {chosen.version} has {rank_by} {ours:.4f}, the champion, version {champion.version}, "
            f"{theirs:.4f}: keep the champion, or use force with a reason"
        )


def rollback(model_name: str, reason: str) -> dict:
    """The audit record, after the previous version became the champion again; twice is the same as once.

    Raises:
        UserError: there is no previous version, or it fails a check that `promote` makes.
        UserError: the server does not let this user promote.
    """
    client = connect(model_name)
    with locked(STORE / "promote.lock"), refusals():
        previous = by_alias(client, model_name, "previous")
        if previous is None:
            raise UserError(f"{model_name} has no previous version: a rollback needs two promotions before it")
        return crown(client, "rollback", by_alias(client, model_name, "champion"), previous, reason, verify(previous))


def crown(client, action: str, old: ModelVersion | None, new: ModelVersion, reason: str, found: dict[str, str]) -> dict:
    """The last audit record of this model, which says that `new` is the champion; then it is."""
    audit = STORE / "audit.jsonl"
    lines = audit.read_text().splitlines() if audit.exists() else []
    last = next((r for r in map(json.loads, reversed(lines)) if r["model"] == new.name), {"to": None})
    client.set_registered_model_alias(new.name, "champion", new.version)
    after, current = str(new.version), str(old.version) if old else None  # sqlite gives a number, a server a text
    if last["to"] == after:
        return last
    # when a killed process has moved the alias but not written, the log still knows the champion before
    before = last["to"] if current == after else current
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": user(),
        "action": action,
        "model": new.name,
        "from": before,
        "to": after,
        "reason": reason,
        "hashes": found,
    }
    with open(audit, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def user() -> str:
    """Who is known to the MLflow server, else who is logged in here."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()


def compare(model_name: str) -> list[dict]:
    """Candidate, champion and previous as rows of a table, with their scores over all conditions."""
    client = connect(model_name)
    rows = []
    for alias in ("candidate", "champion", "previous"):
        if version := by_alias(client, candidates(model_name) if alias == "candidate" else model_name, alias):
            tags, scores = version.tags, stored_scores(version)["scores"]
            ours = [row for row in scores if row["system"] == tags["method"] and row["condition"] == "all"]
            rows.append(
                {"alias": alias, "version": str(version.version)}
                | {name: tags[name][:12] for name in ("method", "git_commit", "data_sha256")}
                | {f"{row['suite']}/{row['metric']}": row["value"] for row in ours}
            )
    return rows
