"""The store in mlruns/ and the connection to it: no path inside, and one line for what cannot be used."""

import shutil
import sqlite3
import threading
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine
from toy import NAME, make_version, promote

from speech_rba.errors import UserError
from speech_rba.registry import promotion, review, runs
from speech_rba.registry.bundle import digest
from speech_rba.registry.store import connect, database, refusals


def test_a_project_folder_may_be_renamed_and_copied(challenger, stores, tmp_path, monkeypatch):
    project, renamed, copy = (tmp_path / name for name in ("a project", "ümlaut & spaces", "copy"))

    def go_to(folder):
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets for its own process

    project.mkdir()
    shutil.move("mlruns", project / "mlruns")
    go_to(project)
    make_version("c", 0.6)
    for folder in (stores / "work", project):  # where the versions were made
        assert str(folder).encode() not in Path("mlruns/mlflow.db").read_bytes()
    project.rename(renamed)
    go_to(renamed)
    assert promote()["to"] == "2"
    shutil.copytree(renamed, copy)
    before = digest(renamed / "mlruns")
    go_to(copy)
    assert [row["alignment/accuracy"] for row in review.compare(NAME)] == [0.6, 0.6, 0.5]
    assert promotion.rollback(NAME, "it mumbles")["to"] == "1"
    make_version("d")
    assert digest(renamed / "mlruns") == before
    assert len(list(Path("mlruns/artifacts").glob("*/models/*/artifacts/MLmodel"))) == 4


def test_mlflow_alone_reads_the_store(candidate, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlruns/mlflow.db")
    mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
    student = mlflow.pyfunc.load_model(f"models:/{NAME}-candidates@candidate")
    assert list(student.predict({"audio": [b"RIFF"]})["answer"]) == ["a4"]


def test_an_experiment_has_the_location_that_a_server_gives_it(store):
    experiment = store.get_experiment_by_name(NAME)
    assert experiment.artifact_location == f"mlflow-artifacts:/{experiment.experiment_id}"


def test_without_installed_entry_points_a_local_store_is_refused(store, monkeypatch):
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda **_: type("None", (), {"names": frozenset()})
    )
    with pytest.raises(UserError, match="entry points of this package are not installed: run `make run`"):
        connect(NAME)


def test_a_deleted_experiment_can_be_restored_as_the_error_says(store):
    number = store.get_experiment_by_name(NAME).experiment_id
    store.delete_experiment(number)
    restore = rf"toy is deleted in MLflow: restore it with `.*--experiment-id {number}`"
    with pytest.raises(UserError, match=restore):
        review.compare(NAME)
    store.restore_experiment(number)
    connect(NAME)


def test_an_experiment_with_files_in_another_folder_is_refused(store, tmp_path):
    here, there = (tmp_path / "mlruns/artifacts").as_uri(), (tmp_path / "elsewhere/mlruns/artifacts").as_uri()
    store.create_experiment("here", here)
    connect("here")
    store.create_experiment("there", there)
    elsewhere = rf"the runs of there in mlruns/ are written to {there}, which is not in this"
    with pytest.raises(UserError, match=elsewhere):
        connect("there")


@pytest.mark.parametrize(
    "uri", ["127.0.0.1:5000", "localhost", "mlruns", "ftp://host", "http://", "postgresql://host"]
)
def test_an_address_of_no_server_is_one_line(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refusal = rf"MLFLOW_TRACKING_URI is '{uri}': write the server as http://HOST:PORT"
    with pytest.raises(UserError, match=refusal):
        review.compare(NAME)


def test_a_broken_database_is_one_line(store, monkeypatch, tmp_path):
    Path("broken.db").write_text("no database at all, but long enough to be read as one" * 99)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    broken = r"the database sqlite:.*broken\.db cannot be used: .*sqlite3"
    with pytest.raises(UserError, match=broken) as refused:
        review.compare(NAME)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("INVALID: Permission denied", "does not let .* do this: ask a reviewer"),
        ("API request failed with error code 401 != 200", "does not know .* with this password: set MLFLOW_"),
        ("Invalid Host header - possible DNS rebinding", "does not accept the name in "),
        ("to x failed with exception (Caused by Failed to resolve 'x' (y))", r"answers at .*resolve 'x'\)$"),
    ],
)
def test_a_known_refusal_of_mlflow_is_one_line(message, line):
    with pytest.raises(UserError, match=line), refusals():
        raise MlflowException(message)


def test_an_unknown_error_keeps_its_traceback():
    for error in (
        MlflowException("a fault of MLflow"),
        PermissionError("[Errno 13] Permission denied: 'a'"),
    ):
        with pytest.raises(type(error)) as raised, refusals():
            raise error
        assert raised.value is error


def test_a_locked_database_is_waited_for(store):
    with create_engine(database()).connect() as connection:
        waits_ms = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    assert waits_ms == 60_000  # sqlite's own limit is 5 seconds
    other = sqlite3.connect("mlruns/mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, other.rollback).start()
    with runs.open_run(NAME, Path("work/abc")) as run_id:
        assert not other.in_transaction
    assert store.get_run(run_id).info.status == "FINISHED"
