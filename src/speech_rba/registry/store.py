"""The connection to the store of runs and models, mlruns/ or a server; what it refuses is a UserError."""

import fcntl
import getpass
import importlib.metadata
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from speech_rba.errors import UserError
from speech_rba.registry.mlflow_plugin import PLACE

STORE = Path("mlruns")
REGISTER_AGAIN = "register again with `dvc repro --single-item --force register`"
PROBE_S = 5

logging.getLogger("mlflow.store.db.utils").setLevel(
    logging.CRITICAL
)  # it logs the errors that it also raises


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside the block no other process holds `path`; the kernel releases it when a process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def database() -> str:
    """The address of the database in STORE; a process that finds it locked waits for 60 s."""
    return f"sqlite:///{STORE.resolve()}/mlflow.db?timeout=60"


def user() -> str:
    """The name at the MLflow server, else the login name on this machine."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()


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
    uri = mlflow.get_tracking_uri()
    first_line = message.strip().splitlines()[0] if message.strip() else ""
    reasons = (  # by message, because MLflow loses an error's code where it wraps the error
        ("Permission denied", f"the MLflow server does not let {user()} do this: ask a reviewer"),
        (
            r"not authenticated|error code 401|401 Client Error",
            f"the MLflow server at {uri} does not know {user()} with this password: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        (
            "Invalid Host header",
            f"the MLflow server does not accept the name in {uri}: use the one it was started with",
        ),
        (
            r"failed with exception|Max retries exceeded|Connection (refused|aborted|reset)",
            f"no MLflow server answers at {uri}: start it (`make up`), correct MLFLOW_TRACKING_URI, or unset "
            f"it to use {STORE}/ ({network_cause(message)})",
        ),
        (r"\(sqlite3\.", f"the database {uri} cannot be used: {first_line}"),
    )
    return next((reason for pattern, reason in reasons if re.search(pattern, message)), None)


def network_cause(message: str) -> str:
    """The network's own error out of a message that wraps it several times."""
    known = "Connection refused|timed out|Failed to resolve '[^']*'|No route to host|certificate[^')]*"
    match = re.search(known, message)
    return match[0] if match else "no connection"


@refusals()
def connect(model_name: str) -> mlflow.MlflowClient:
    """A client of MLFLOW_TRACKING_URI, else of the store in mlruns/; `model_name` is the active experiment.

    Raises:
        UserError: no server answers at the address, it is no address, or the experiment cannot be used.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or database()
    check_uri(uri)
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


def check_uri(uri: str) -> None:
    """Raises UserError where `uri` is no server and no sqlite file that MLflow opens by mlflow_plugin."""
    if not re.match(r"https?://[^/]|sqlite:///", uri):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {uri!r}: write the server as http://HOST:PORT, or unset it to use "
            f"{STORE}/"
        )
    plugins = importlib.metadata.entry_points(group="mlflow.artifact_repository")
    if uri.startswith("sqlite:") and "mlflow-artifacts" not in plugins.names:
        raise UserError(
            f"MLflow cannot use {STORE}/, since the entry points of this package are not installed: run "
            "`make run`, or `pip install --no-deps --no-build-isolation --editable .`"
        )


def check_server(uri: str) -> None:
    """Returns in seconds where an MLflow server answers; MLflow's own calls wait for minutes.

    Raises:
        UserError: something else answers.
        MlflowException: nothing answers.
    """
    reply = http_request(get_default_host_creds(uri), "/health", "GET", timeout=PROBE_S, max_retries=1)
    if reply.status_code in (200, 404) and reply.text.strip() != "OK":
        raise UserError(f"what answers at {uri} is no MLflow server: correct MLFLOW_TRACKING_URI")


def check_experiment(experiment: Experiment, uri: str) -> None:
    """Raises UserError where this experiment is deleted, or its files are outside this folder."""
    name, location = experiment.name, experiment.artifact_location
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"the experiment {name} is deleted in MLflow: restore it with `MLFLOW_TRACKING_URI='{uri}' "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}`, or set another "
            "register.model_name"
        )
    is_here = location.startswith((PLACE, (STORE / "artifacts").resolve().as_uri()))
    if uri.startswith("sqlite:") and not is_here:
        raise UserError(
            f"the runs of {name} in {STORE}/ are written to {location}, which is not in this folder: move "
            f"the project back there, or remove {STORE}/ and {REGISTER_AGAIN}"
        )
