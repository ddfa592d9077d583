"""A real MLflow server with accounts: a trainer registers candidates and cannot promote them."""

import json
import os
import shutil
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException
from toy import NAME, make_version, promote

from flows import servers, supervisor
from speech_rba.errors import UserError
from speech_rba.registry import promotion, review

PASSWORD = "a long enough one"
PASSWORDS = {"reviewer": PASSWORD, "operator": "another long one"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store):
    """MLflow as `make up` starts it, and the environment of its worker, who is the trainer."""
    folder = tmp_path_factory.mktemp("review")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as free:
        patch.chdir(folder)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        )
        for user, password in PASSWORDS.items():
            patch.setenv(f"SPEECH_RBA_{user.upper()}_PASSWORD", password)
        patch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
        Path("mlruns").mkdir()
        shutil.copy(empty_store, "mlruns")  # a server makes its tables for seconds
        Path("params.yaml").write_text(f"register: {{model_name: {NAME}}}")
        port = free.getsockname()[1]
        free.close()
        setup = servers.Setup(port, 1, folder, servers.read_passwords())
        server, _, worker = servers.services(setup)
        server.wait(server.start())
        supervisor.make_accounts(worker.env, PASSWORD)
        supervisor.make_accounts(worker.env, PASSWORD)  # as after a restart
        yield worker.env | {"HOME_OF_TESTS": str(folder)}
        server.stop()


@pytest.fixture
def become(server, monkeypatch, tmp_path):
    """Makes this process the reviewer or the trainer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()

    def become(user: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server["MLFLOW_TRACKING_URI"])
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        password = PASSWORD if user == "reviewer" else server["MLFLOW_TRACKING_PASSWORD"]
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return become


def test_a_trainer_registers_and_a_reviewer_promotes(become):
    become("trainer")
    make_version("a")
    with pytest.raises(UserError, match="does not let trainer do this: ask a reviewer"):
        promote()
    client = mlflow.MlflowClient()
    with pytest.raises(MlflowException, match="Permission denied"):
        client.copy_model_version(f"models:/{NAME}-candidates/1", NAME)
    become("reviewer")
    record = promote(reason="the first")
    assert (record["who"], record["from"], record["to"]) == ("reviewer", None, "1")
    become("trainer")
    for change in (
        lambda: client.set_registered_model_alias(NAME, "champion", "1"),
        lambda: client.delete_registered_model_alias(NAME, "champion"),
        lambda: client.set_model_version_tag(NAME, "1", "adapter_sha256", "0"),
        lambda: promotion.rollback(NAME, ""),
    ):
        with pytest.raises((MlflowException, ValueError), match=r"Permission denied|no previous version"):
            change()
    assert [row["alias"] for row in review.compare(NAME)] == ["candidate", "champion"]
    assert json.loads(Path("mlruns/audit.jsonl").read_text())["to"] == "1"


def test_a_stored_student_is_loaded_through_the_server(become):
    become("trainer")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}-candidates/1")
    assert list(model.predict({"audio": [b"RIFF"]})["answer"]) == ["a4"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "wrong"}, "does not know trainer with this password: set MLFLOW"),
        ({"MLFLOW_TRACKING_USERNAME": "nobody"}, "does not know nobody with this password"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}, r"no MLflow server answers at .*1:1: .*refused\)$"),
        (
            {"MLFLOW_TRACKING_URI": "http://no.invalid"},
            r"no MLflow server answers .* resolve 'no\.invalid'\)$",
        ),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(become, monkeypatch, change, line):
    become("trainer")
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    for command in (review.compare, review.waiting, lambda name: promotion.rollback(name, "")):
        with pytest.raises(UserError, match=line) as refused:
            command(NAME)
        assert "\n" not in str(refused.value)


def test_another_kind_of_server_is_refused(become, monkeypatch):
    become("trainer")
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{other.server_port}")
        with pytest.raises(UserError, match="is no MLflow server: correct MLFLOW_TRACKING_URI"):
            review.compare(NAME)
        other.shutdown()


def test_the_server_and_a_local_process_share_one_store(server, become, monkeypatch):
    become("trainer")
    monkeypatch.chdir(server["HOME_OF_TESTS"])  # whose store the server is over
    expected = {"candidate": "2", "champion": "1"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    make_version("b")  # as `make run` does
    assert {r["alias"]: r["version"] for r in review.compare(NAME)} == expected
    become("trainer")
    rows = review.compare(NAME)
    assert {r["alias"]: r["version"] for r in rows} == expected
    become("reviewer")
    assert promote()["to"] == "2"  # made here, fetched through the server
    monkeypatch.chdir(server["HOME_OF_TESTS"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert promotion.rollback(NAME, "made through the server, fetched here")["to"] == "1"


def test_the_reviewers_password_does_not_reach_the_worker(server):
    assert not [name for name, value in server.items() if PASSWORD in value]


def test_a_request_without_a_password_is_refused(server):
    url = f"{server['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/search"
    assert requests.get(url, timeout=30).status_code == 401


def test_one_password_or_two_equal_ones_are_refused(monkeypatch):
    monkeypatch.delenv("SPEECH_RBA_OPERATOR_PASSWORD", raising=False)
    monkeypatch.delenv("SPEECH_RBA_REVIEWER_PASSWORD", raising=False)
    assert servers.read_passwords() == {}
    monkeypatch.setenv("SPEECH_RBA_REVIEWER_PASSWORD", "one")
    with pytest.raises(
        ValueError, match="two different passwords: set SPEECH_RBA_REVIEWER_PASSWORD and SPEECH_RBA_OP"
    ):
        servers.read_passwords()
    monkeypatch.setenv("SPEECH_RBA_OPERATOR_PASSWORD", "one")
    with pytest.raises(ValueError, match="two different"):
        servers.read_passwords()
