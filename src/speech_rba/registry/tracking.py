"""The record: MLflow runs, the registry of students, and the log of who promoted which.

Who trains registers versions of the model `NAME-candidates`, whose alias `candidate` is the newest. Who reviews copies
one to the model `NAME`, with the aliases `champion` (in use) and `previous` (the champion before, which `rollback`
brings back): a server that tells users apart can then keep trainers from promoting. A version is one folder in the
store, whose `artifacts/bundle` holds base, adapter, gate.json, scores.json, answers.jsonl (of the
evaluation) and check/ (clips, and the answers that the student gave before it was stored).

The store in mlruns/ holds no path: its database says `mlflow-artifacts:/...`, which a server looks up in its
folder and this module beside the database. So the folder of the project may be renamed or copied.
"""

import fcntl
import getpass
import hashlib
import importlib.metadata
import json
import logging
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
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import Answer, read_jsonl
from speech_rba.registry.non_regression import Check, non_regression

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
from mlflow.entities import Experiment, LifecycleStage, Metric, Param  # noqa: E402
from mlflow.entities.model_registry import ModelVersion  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.store.artifact.artifact_repo import ArtifactRepository  # noqa: E402
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories  # noqa: E402
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository  # noqa: E402
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402
from mlflow.tracking._tracking_service.utils import _register as register_tracking_store  # noqa: E402
from mlflow.types.schema import ColSpec, DataType, Schema  # noqa: E402
from mlflow.utils.credentials import get_default_host_creds  # noqa: E402
from mlflow.utils.rest_utils import http_request  # noqa: E402

STORE = Path("mlruns")
PLACE = "mlflow-artifacts:/"
BUNDLE = "artifacts/bundle"  # within a stored model; MLflow sets the first part
BASE = Path("artifacts/base")
REGISTRATION = Path("artifacts/register/registration.json")
REGISTER_AGAIN = "register again with `dvc repro --single-item --force register`"
NO_REWARD_HACKING = "none"
TAGS = {
    "method",
    "rank_by",
    "reward_hacking",
    "git_commit",
    "data_sha256",
    "report",
    "model_sha256",
    "base_sha256",
}
CODE = [
    "src",
    "data",
    "params.yaml",
    "dvc.yaml",
    "requirements.lock",
]  # what decides over a result and is in git
BASE_IDENTITY = (
    "model_type",
    "language_model",
    "audio_tower",
    "speech_llm",
    "system_prompt",
    "target_language",
)
PROBE_S = 5
SERVING_NEEDS = {
    "torch",
    "transformers",
    "peft",
    "mlflow",
    "pandas",
    "pydantic",
    "soxr",
    "soundfile",
    "scipy",
}


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


def artifact_store(
    uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """What reads and writes `mlflow-artifacts:/...`: the folder beside a database in a file, or the server."""
    at = tracking_uri or mlflow.get_tracking_uri()
    if not at.startswith("sqlite:"):
        return MlflowArtifactsRepository(uri, tracking_uri, registry_uri)
    folder = Path(at.removeprefix("sqlite:///").partition("?")[0]).resolve().parent / "artifacts"
    return LocalArtifactRepository(
        (folder / uri.removeprefix(PLACE).lstrip("/")).as_uri(), tracking_uri, registry_uri
    )


logging.getLogger("mlflow.store.db.utils").setLevel(
    logging.CRITICAL
)  # it logs, with traceback, what it raises
get_registered_artifact_repositories()["mlflow-artifacts"] = artifact_store
register_tracking_store(
    "sqlite", lambda store_uri, **_: SqlAlchemyStore(store_uri, PLACE)
)  # as a server's is


@contextmanager
def refusals() -> Iterator[None]:
    """Inside the block what MLflow refuses for a known reason is a UserError; it decorates a function too."""
    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        if reason := refusal(str(error)):
            raise UserError(reason) from error
        raise


def refusal(message: str) -> str | None:
    """One line about a message of MLflow that a user can do something about, else None."""
    at = mlflow.get_tracking_uri()
    first = message.strip().splitlines()[0] if message.strip() else ""
    answers = (  # the error's code is lost where MLflow wraps it
        ("Permission denied", f"the MLflow server does not let {user()} do this: ask a reviewer"),
        (
            r"not authenticated|error code 401|401 Client Error",
            f"the MLflow server at {at} does not know {user()} with this password: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        (
            "Invalid Host header",
            f"the MLflow server does not go by the name in {at}: use the one it was started with",
        ),
        (
            r"failed with exception|Max retries exceeded|Connection (refused|aborted|reset)",
            f"no MLflow server answers at {at}: start it (`make up`), correct MLFLOW_TRACKING_URI, or unset "
            f"it to use {STORE}/ ({cause(message)})",
        ),
        (r"\(sqlite3\.", f"the database {at} cannot be used: {first}"),
    )
    return next((answer for pattern, answer in answers if re.search(pattern, message)), None)


def cause(message: str) -> str:
    """What the network said, out of a message that wraps it several times."""
    known = "Connection refused|timed out|Failed to resolve '[^']*'|No route to host|certificate[^')]*"
    return found[0] if (found := re.search(known, message)) else "no connection"


@refusals()
def connect(model_name: str) -> mlflow.MlflowClient:
    """A client of MLFLOW_TRACKING_URI, else of the store in mlruns/; `model_name` is the active experiment.

    Raises:
        UserError: no server answers there, it is no address, or the experiment cannot be used.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or database()
    if not re.match(r"https?://[^/]|sqlite:///", uri):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {uri!r}: write the server as http://HOST:PORT, or unset it to use "
            f"{STORE}/"
        )
    with locked(STORE / "setup.lock"):  # two processes that create one database at once both fail
        mlflow.set_tracking_uri(uri)
        if uri.startswith("http"):
            check_server(uri)
        client = mlflow.MlflowClient()
        if experiment := client.get_experiment_by_name(model_name):
            check_experiment(experiment, uri)
        else:
            client.create_experiment(model_name)
    mlflow.set_experiment(model_name)
    return client


def check_server(uri: str) -> None:
    """Returns in seconds where an MLflow server answers; MLflow's own calls wait for minutes.

    Raises:
        UserError: something else answers.
        MlflowException: nothing does.
    """
    answer = http_request(get_default_host_creds(uri), "/health", "GET", timeout=PROBE_S, max_retries=1)
    if answer.status_code in (200, 404) and answer.text.strip() != "OK":
        raise UserError(f"what answers at {uri} is no MLflow server: correct MLFLOW_TRACKING_URI")


def check_experiment(experiment: Experiment, uri: str) -> None:
    """Raises UserError where runs of this experiment cannot be written, or not here."""
    name, place = experiment.name, experiment.artifact_location
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"the experiment {name} is deleted in MLflow: restore it with `MLFLOW_TRACKING_URI='{uri}' "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}`, or set another "
            "register.model_name"
        )
    if uri.startswith("sqlite:") and not place.startswith((PLACE, (STORE / "artifacts").resolve().as_uri())):
        raise UserError(
            f"the runs of {name} in {STORE}/ are written to {place}, which is not in this folder: move the "
            f"project back there, or remove {STORE}/ and {REGISTER_AGAIN}"
        )


@contextmanager
def open_run(model_name: str, work: Path) -> Iterator[str]:
    """Inside the block one MLflow run is open; yields its id.

    The run is found again by the name of `work`, so a stage that was killed goes on with its own run and closes it.
    A second process with the same inputs waits. SIGTERM ends the run as failed instead of leaving it running.
    """
    client = connect(model_name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with refusals(), locked(work / "lock"):
        experiment = client.get_experiment_by_name(model_name)
        found = client.search_runs([experiment.experiment_id], f"tags.inputs = '{work.name}'", max_results=1)
        run_id = found[0].info.run_id if found else None
        with mlflow.start_run(run_id, tags={"inputs": work.name, "git_commit": git_commit()}) as run:
            yield run.info.run_id


def git_commit() -> str:
    """The commit that is checked out, with `-dirty` where code or parameters differ; else why it is unknown.

    The tracked dvc.lock does not count: a run writes it.
    """
    try:
        commit = git("rev-parse", "--verify", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", *CODE) else commit
    except FileNotFoundError:
        return "unknown: git is not installed"
    except subprocess.CalledProcessError as error:
        return f"unknown: {error.stderr.strip().splitlines()[0]}"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def short_commit(commit: str) -> str:
    """A commit as people name it; what is no commit stays whole."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", commit)


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
        mlflow.log_input(
            MetaDataset(CodeDatasetSource({"dvc": name}), name=name, digest=digest), context="training"
        )
    mlflow.log_artifacts(str(report), "report")


def score_metrics(scores: dict) -> dict[str, float]:
    """The values of scores.json by name, `system/suite/condition/metric`, of validation under `validation/`."""
    metrics = {}
    for row in scores["validation"]:
        metrics["validation/{system}/{suite}/{condition}/{metric}".format(**row)] = row["value"]
    for row in scores["scores"]:
        metrics["{system}/{suite}/{condition}/{metric}".format(**row)] = row["value"]
    for row in scores["recovery"]:
        metrics["{system}/{suite}/{condition}/{metric}_recovery".format(**row)] = row["value"]
    for row in scores["wer"]:
        metrics["transcriber/{transcriber}/{suite}/{condition}/wer".format(**row)] = row["value"]
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
    data = [
        stage for name, stage in stages.items() if name.partition("@")[0] in ("synthesize", "voice", "suite")
    ]
    outs = [out for stage in data for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs}


def log_student(bundle: Path, serving: Path) -> str:
    """The id of the model that is now stored with the open run: the code file `serving` and the folder `bundle`."""
    assert bundle.name == Path(BUNDLE).name, bundle  # MLflow names its copy after the folder
    needs = [
        r for r in importlib.metadata.requires("speech-rba") if re.match(r"[\w-]+", r)[0] in SERVING_NEEDS
    ]
    warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature says it all
    answered = Schema([ColSpec(DataType.string, name) for name in ("answer", "error")])
    signature = ModelSignature(Schema([ColSpec(DataType.binary, "audio")]), answered)
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
    """Inside the block a copy of the model at `uri`: what is hashed is what is loaded, from any store.

    Raises:
        UserError: a file of it is missing or cannot be read.
    """
    with TemporaryDirectory() as folder:
        try:
            with refusals():
                model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except UserError:
            raise
        except (MlflowException, OSError) as error:
            raise UserError(not_in_store(uri)) from error
        if model.is_dir() and not any(model.iterdir()):  # MLflow copies nothing of what is not there
            raise UserError(not_in_store(uri))
        yield model


def not_in_store(uri: str) -> str:
    return f"the files of {uri} are not in the store, or cannot be read: {REGISTER_AGAIN}"


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
    for (name, before), after, error in zip(
        expected.items(), answers["answer"], answers["error"], strict=True
    ):
        if before != after or error:
            raise UserError(
                f"reloaded, the model answers {error or after!r} to {name} instead of {before!r}: what loads "
                "it differs from what trained it; compare the package versions, then register again"
            )


def registered(run_id: str) -> ModelVersion | None:
    """The version that was registered from this run, if any."""
    return next(iter(mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id}'")), None)


@refusals()
def register(
    model_name: str, run_id: str, model_id: str, description: str, tags: dict[str, str]
) -> ModelVersion:
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


@refusals()
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
    return next(
        (v for v in client.search_model_versions(f"name = '{model_name}'") if str(v.version) == number), None
    )


def what(version: ModelVersion) -> str:
    return f"{version.name} version {version.version}"


def is_ours(version: ModelVersion) -> bool:
    """Whether the register stage made it, or a promotion of what it made; else a person did, in MLflow."""
    return version.tags.keys() >= TAGS


def no_candidate(client: mlflow.MlflowClient, model_name: str) -> str:
    """Why there is no newest candidate, and what to do."""
    pool = candidates(model_name)
    if not client.search_registered_models(f"name = '{pool}'"):
        if REGISTRATION.exists():
            return f"{pool} was deleted in MLflow, or registered on another server: {REGISTER_AGAIN}"
        return "nothing is registered yet: run `make run`"
    left = sorted(int(v.version) for v in client.search_model_versions(f"name = '{pool}'"))
    if not left:
        return f"all versions of {pool} were deleted in MLflow: {REGISTER_AGAIN}"
    return (
        f"the newest version of {pool} was deleted in MLflow; left: {', '.join(map(str, left))}; name one, "
        f"as in `speech-rba promote {left[-1]}`, or {REGISTER_AGAIN}"
    )


def check_ours(version: ModelVersion) -> None:
    """Raises UserError where a person made this version in MLflow."""
    if missing := sorted(TAGS - version.tags.keys()):
        raise UserError(
            f"{what(version)} was not made by the register stage, since it has no tags {', '.join(missing)}: "
            "name another version"
        )


def check_hashes(version: ModelVersion, model: Path) -> dict[str, str]:
    """The hashes of a fetched version, which are those of its tags.

    Raises:
        UserError: they are not.
    """
    found = hashes(model)
    if wrong := [name for name, value in found.items() if version.tags.get(name) != value]:
        raise UserError(
            f"{what(version)} was changed after it was registered ({', '.join(wrong)} differ from its tags): "
            "register anew"
        )
    return found


def verify(version: ModelVersion) -> dict[str, str]:
    """The hashes of a version that passed its gate, is stored unchanged and answers as it did.

    Raises:
        UserError: it does not; the message says what is wrong.
    """
    check_ours(version)
    with fetched(f"models:/{version.name}/{version.version}") as model:
        found = check_hashes(version, model)
        if json.loads((model / BUNDLE / "gate.json").read_text())["passed"] is not True:
            raise UserError(f"{what(version)} did not pass its gate: mend the data, register again")
        check_answers(model)
    return found


def stored_scores(version: ModelVersion) -> dict:
    """The scores.json that was stored with a version."""
    with fetched(f"models:/{version.name}/{version.version}/{BUNDLE}/scores.json") as file:
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(
                f"the scores.json stored with {what(version)} is broken: {REGISTER_AGAIN}"
            ) from error


def stored_answers(version: ModelVersion) -> list[Answer] | None:
    """The answers to evaluation's items that were stored with a version; None where none can be read.

    Raises:
        UserError: the version was changed after it was registered.
    """
    with fetched(f"models:/{version.name}/{version.version}") as model:
        check_hashes(version, model)
        try:
            return read_jsonl(model / BUNDLE / "answers.jsonl", Answer)
        except (FileNotFoundError, UserError):  # registered by an earlier version of this project
            return None


@refusals()
def fetch_champion(model_name: str, folder: Path) -> Path | None:
    """The champion's adapter in `folder/<version>`, fetched once; None without a champion.

    Raises:
        UserError: it was changed after it was registered, or aligned on another base than artifacts/base.
    """
    champion = by_alias(connect(model_name), model_name, "champion")
    if champion is None:
        return None
    check_ours(champion)
    out = folder / str(champion.version)
    with fetched(f"models:/{model_name}/{champion.version}") as model:
        check_hashes(champion, model)
        check_base(champion, model / BUNDLE / "base")
        if not out.exists():
            partial = out.with_name(f".{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(model / BUNDLE / "adapter", partial)
            os.replace(partial, out)
    return out


def check_base(champion: ModelVersion, its_base: Path) -> None:
    """Raises UserError where there is an artifacts/base and an adapter of `its_base` does not fit it."""
    if not BASE.exists():
        return
    ours, theirs = base_identity(BASE), base_identity(its_base)
    if differing := [
        f"{name} ({theirs[name]}, here {ours[name]})" for name in ours if ours[name] != theirs[name]
    ]:
        raise UserError(
            f"the adapter of {what(champion)} was aligned on another base: {', '.join(differing)}; align "
            "without it (nightly without a seed) until a version on this base is champion"
        )


def base_identity(base: Path) -> dict[str, str | None]:
    """What an adapter depends on: the frozen models and the prompt by name, the base's weights by hash."""
    config = json.loads((base / "config.json").read_text())
    weights = hashlib.sha256("".join(digest(file) for file in sorted(base.glob("*.safetensors"))).encode())
    return {name: config.get(name) for name in BASE_IDENTITY} | {"weights": weights.hexdigest()[:12]}


@refusals()
def waiting(model_name: str) -> list[dict]:
    """The candidates registered after the champion's, newest first, with what a reviewer asks of each.

    One that a person made in MLflow is told as such, and so is a newest one that was deleted there.

    Raises:
        UserError: something was registered, and there is no candidate left.
    """
    client, pool = connect(model_name), candidates(model_name)
    champion = by_alias(client, model_name, "champion")
    made_from = re.fullmatch(rf"models:/{re.escape(pool)}/(\d+)", champion.source if champion else "")
    since = int(made_from[1]) if made_from else 0
    found = client.search_model_versions(f"name = '{pool}'")
    if not found and (champion or REGISTRATION.exists()):
        raise UserError(no_candidate(client, model_name))
    is_gone = found and not by_alias(client, pool, "candidate")
    gone = [{"version": "newest", "method": "deleted in MLflow"}] if is_gone else []
    newer = [v for v in found if int(v.version) > since]
    return gone + [
        {"version": str(version.version)}
        | {
            "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(
                timespec="minutes"
            )
        }
        | reviewed(version)
        for version in sorted(newer, key=lambda v: int(v.version), reverse=True)
    ]


def reviewed(version: ModelVersion) -> dict:
    """What a reviewer asks of a version; the score is of test items."""
    if not is_ours(version):
        return {"method": "made by hand in MLflow: cannot be promoted"}
    method, rank_by = version.tags["method"], version.tags["rank_by"]
    return {
        "method": method,
        rank_by: main_score(stored_scores(version), method, rank_by),
        "reward_hacking": version.tags["reward_hacking"],
        "git_commit": short_commit(version.tags["git_commit"]),
        "report": version.tags["report"],
    }


def main_score(scores: dict, method: str, rank_by: str) -> float:
    """The value on test items of `rank_by`, a suite/condition/metric: the higher the better.

    Raises:
        UserError: scores.json has no such row.
    """
    if (value := score_of(scores["scores"], method, rank_by)) is None:
        raise UserError(
            f"scores.json has no {rank_by} of {method}: evaluate it, or set register.rank_by to what it has"
        )
    return value


def validation_score(scores: dict, method: str, rank_by: str) -> float:
    """The value on validation items of `rank_by`, by which a method is chosen.

    Raises:
        UserError: scores.json has no such row.
    """
    if (value := score_of(scores["validation"], method, rank_by)) is None:
        rows = [row for row in scores["validation"] if row["system"] == method]
        has = ", ".join("{suite}/{condition}/{metric}".format(**row) for row in rows) or "none at all"
        raise UserError(
            f"scores.json has no validation score {rank_by} of {method}: set register.rank_by to one that it "
            f"has ({has})"
        )
    return value


def score_of(rows: list[dict], method: str, rank_by: str) -> float | None:
    """The value of the row of `method` and `rank_by`, if any."""
    for row in rows:
        if row["system"] == method and rank_by == "{suite}/{condition}/{metric}".format(**row):
            return row["value"]
    return None


@refusals()
def promote(params: Params, version: str | None, force: bool, reason: str) -> dict:
    """The audit record, after a candidate, the newest when `version` is None, became champion, the champion previous.

    Doing it again, also after a kill, changes nothing that is done already. `force` skips the reward_hacking and the comparison
    with the champion, nothing else, and needs a reason. The limits are those of `params`, the reviewer's.

    Raises:
        UserError: no such candidate; it was tampered with, did not pass its gate or answers otherwise than before;
            or `force` is not given and an alarm was raised in its training or it is worse than the champion.
        UserError: the server does not let this user promote.
    """
    if force and not reason:
        raise UserError("force needs a reason, which goes into the audit log: give one")
    model_name = params.register_.model_name
    client = connect(model_name)
    with locked(STORE / "promote.lock"):
        champion, chosen = by_alias(client, model_name, "champion"), choose(client, model_name, version)
        found, mine = verify(chosen), copied(client, model_name, chosen)
        is_new = champion is not None and (mine is None or mine.version != champion.version)
        checks = [reward_hacking_check(chosen)]
        if is_new:
            checks += compared(params, chosen, champion)
        elif champion is None and last_record(model_name)["to"]:
            checks.append(
                Check("champion", False, "deleted in MLflow, or its alias: there is nothing to compare with")
            )
        if not force:
            refuse_unless_passed(chosen, checks)
        if mine is None:
            mine = client.copy_model_version(f"models:/{chosen.name}/{chosen.version}", model_name)
        if is_new:  # first, so that a kill between the two leaves the old champion in use and known
            client.set_registered_model_alias(model_name, "previous", champion.version)
        notes = {"checks": list(map(str, checks)), "forced": [c.name for c in checks if not c.passed]}
        return set_champion(client, "promote", champion, mine, reason, found, notes)


def choose(client: mlflow.MlflowClient, model_name: str, version: str | None) -> ModelVersion:
    """The candidate with this number, the newest when it is None.

    Raises:
        UserError: there is none.
    """
    pool = candidates(model_name)
    if version is None:
        chosen, why = by_alias(client, pool, "candidate"), no_candidate(client, model_name)
    else:
        left = sorted(int(v.version) for v in client.search_model_versions(f"name = '{pool}'"))
        has = f"it has {', '.join(map(str, left))}" if left else "it has none, run `make run`"
        chosen, why = by_number(client, pool, version), f"{pool} has no version {version}: {has}"
    if chosen is None:
        raise UserError(why)
    return chosen


def reward_hacking_check(chosen: ModelVersion) -> Check:
    """Passed where the training of `chosen` raised no alarm."""
    raised = chosen.tags["reward_hacking"]
    passed = raised == NO_REWARD_HACKING
    return Check("reward_hacking in training", passed, raised if passed else f"{raised}; look at the report")


def compared(params: Params, chosen: ModelVersion, champion: ModelVersion) -> list[Check]:
    """`chosen` against the champion; a check of the base, which always passes, tells where it differs."""
    if not is_ours(champion):
        return [
            Check(
                "champion",
                False,
                f"{what(champion)} was made by hand in MLflow: it has no answers to compare",
            )
        ]
    same_base = chosen.tags["base_sha256"] == champion.tags["base_sha256"]
    checks = (
        []
        if same_base
        else [Check("base", True, "differs from the champion's: more than the adapter changed")]
    )
    ours, theirs = stored_answers(chosen), stored_answers(champion)
    if ours is None or theirs is None:
        who = what(chosen if ours is None else champion)
        return [*checks, Check("answers", False, f"{who} has none stored that can be compared")]
    limits, rank_by = params.register_.limits, chosen.tags["rank_by"]
    return checks + non_regression(ours, theirs, rank_by, limits, params.evaluate)


def refuse_unless_passed(chosen: ModelVersion, checks: list[Check]) -> None:
    """Raises UserError with a line for each check that did not pass."""
    if wrong := [f"\n  {check}" for check in checks if not check.passed]:
        raise UserError(
            f"candidate {chosen.version} is not promoted; keep the champion, or use force with a reason:"
            + "".join(wrong)
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
        return set_champion(client, "rollback", champion, previous, reason, verify(previous), {})


def last_record(model_name: str) -> dict:
    """The last line of the audit log about this model; without one `to` is None."""
    audit = STORE / "audit.jsonl"
    lines = audit.read_text().splitlines() if audit.exists() else []
    return next((r for r in map(json.loads, reversed(lines)) if r["model"] == model_name), {"to": None})


def set_champion(
    client: mlflow.MlflowClient,
    action: str,
    old: ModelVersion | None,
    new: ModelVersion,
    reason: str,
    found: dict[str, str],
    notes: dict,
) -> dict:
    """The last audit record of this model, which says that `new` is the champion; then it is."""
    last = last_record(new.name)
    client.set_registered_model_alias(new.name, "champion", new.version)
    after, current = (
        str(new.version),
        str(old.version) if old else None,
    )  # sqlite gives a number, a server a text
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
    } | notes
    with open(STORE / "audit.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def user() -> str:
    """Who is known to the MLflow server, else who is logged in here."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()


@refusals()
def compare(model_name: str) -> list[dict]:
    """Candidate, champion and previous as rows of a table, with their scores of all test clips.

    Raises:
        UserError: there is none of them.
    """
    client = connect(model_name)
    rows = []
    for alias in ("candidate", "champion", "previous"):
        version = by_alias(client, candidates(model_name) if alias == "candidate" else model_name, alias)
        if version:
            rows.append({"alias": alias, "version": str(version.version)} | shown(version))
    if not rows:
        raise UserError(no_candidate(client, model_name))
    if rows[0]["alias"] != "candidate":
        rows.insert(0, {"alias": "candidate", "version": "", "method": no_candidate(client, model_name)})
    return rows


def shown(version: ModelVersion) -> dict:
    """What tells one version from another, and its scores."""
    if not is_ours(version):
        return {"method": "made by hand in MLflow"}
    tags = version.tags
    ours = [
        r
        for r in stored_scores(version)["scores"]
        if r["system"] == tags["method"] and r["condition"] == "all"
    ]
    told = {"method": tags["method"], "git_commit": short_commit(tags["git_commit"])}
    told["data_sha256"] = tags["data_sha256"][:12]
    return told | {f"{row['suite']}/{row['metric']}": row["value"] for row in ours}
