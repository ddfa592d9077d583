"""MLflow runs, one a registration: its params, metrics and curves, and the commit and data it came from."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import yaml
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param

from speech_rba.config import Params
from speech_rba.registry.scores import score_metrics
from speech_rba.registry.store import connect, locked, refusals

CODE = ["src", "data", "params.yaml", "dvc.yaml", "requirements.lock"]  # what decides a result and is in git
DATA_STAGES = ("synthesize", "voice", "suite")
MAX_PARAMS, MAX_METRICS = 100, 1000  # that MLflow's store takes in one call


@contextmanager
def open_run(model_name: str, work: Path) -> Iterator[str]:
    """Inside the block one MLflow run is open; yields its id.

    The run is identified by the name of `work`, so a stage that was killed resumes its run and closes it. A
    second process with the same inputs waits. SIGTERM ends the run as failed instead of leaving it running.
    """
    client = connect(model_name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with refusals(), locked(work / "lock"):
        experiment_id = mlflow.set_experiment(model_name).experiment_id
        runs = client.search_runs([experiment_id], f"tags.inputs = '{work.name}'", max_results=1)
        run_id = runs[0].info.run_id if runs else None
        with mlflow.start_run(run_id, tags={"inputs": work.name, "git_commit": git_commit()}) as run:
            yield run.info.run_id


def log_pipeline(run_id: str, params: Params, scores: dict, methods: Path, report: Path) -> None:
    """The open run holds params, data hashes, every score, the training curves and the report page."""
    start_time = mlflow.MlflowClient().get_run(run_id).info.start_time
    log_params(run_id, params)
    metrics = [Metric(name, value, start_time, 0) for name, value in score_metrics(scores).items()]
    for method in params.align.methods:
        metrics += training_metrics(methods / method, start_time)
    for start in range(0, len(metrics), MAX_METRICS):
        mlflow.MlflowClient().log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
    for path, md5 in data_hashes().items():
        source = CodeDatasetSource({"dvc": path})
        dataset = MetaDataset(source, name=path, digest=md5)  # type: ignore[abstract]  # as MLflow does
        mlflow.log_input(dataset, context="training")
    mlflow.log_artifacts(str(report), "report")


def log_params(run_id: str, params: Params) -> None:
    """The run holds every value of params.yaml by its dotted name."""
    values = [Param(name, str(value)) for name, value in flatten(params.model_dump(by_alias=True)).items()]
    for start in range(0, len(values), MAX_PARAMS):
        mlflow.MlflowClient().log_batch(run_id, params=values[start : start + MAX_PARAMS])


def flatten(values: dict, prefix: str = "") -> dict[str, object]:
    """The leaves of nested dicts by dotted name."""
    leaves: dict[str, object] = {}
    for key, value in values.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def training_metrics(folder: Path, start_time: int) -> list[Metric]:
    """What one method logged during training, `train/method/phase/name`, and its totals.

    The time stamps follow from the run's start, so that logging them again after a kill adds no second point.
    """
    prefix = f"train/{folder.name}"
    totals = json.loads((folder / "training.json").read_text())
    metrics = [Metric(f"{prefix}/{name}", value, start_time, 0) for name, value in numbers(totals)]
    for line in (folder / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        step, phase, stamp = row.pop("step"), row.pop("phase"), start_time + int(row["minutes"] * 60_000)
        metrics += [Metric(f"{prefix}/{phase}/{name}", value, stamp, step) for name, value in numbers(row)]
    return metrics


def numbers(values: dict) -> list[tuple[str, float]]:
    """The items whose value is a number: a metric holds nothing else."""
    return [(name, value) for name, value in values.items() if isinstance(value, int | float)]


def data_hashes() -> dict[str, str]:
    """DVC's md5 of rows and clips, by output path; empty without a dvc.lock that names them."""
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    data_stages = [stage for name, stage in stages.items() if name.partition("@")[0] in DATA_STAGES]
    return {out["path"]: out["md5"] for stage in data_stages for out in stage.get("outs", [])}


def git_commit() -> str:
    """The commit that is checked out, with `-dirty` where code or parameters differ; else why it is unknown.

    A changed dvc.lock does not make it dirty, because every run writes dvc.lock.
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
    """A commit with 12 digits; a text that is no commit stays whole."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", commit)
