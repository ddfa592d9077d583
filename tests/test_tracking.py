import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest
import yaml

from flows import nightly
from speech_rba import tracking

NAME = "toy"

# answers with the first byte of the adapter and the size of the recording
SERVING = """
from pathlib import Path
import mlflow

class Toy(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.bundle = Path(context.artifacts["bundle"])

    def predict(self, context, model_input, params=None):
        first = (self.bundle / "adapter/adapter_model.safetensors").read_bytes()[:1].decode()
        return [f"{first}{len(audio)}" for audio in model_input["audio"]]

mlflow.models.set_model(Toy())
"""


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory):
    """A database with its tables, which takes MLflow seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect("unused")
    return folder / "mlruns/mlflow.db"


@pytest.fixture
def store(tmp_path, monkeypatch, fresh_store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("mlruns").mkdir()
    with sqlite3.connect(fresh_store) as source, sqlite3.connect("mlruns/mlflow.db") as target:
        source.backup(target)
    return tracking.connect(NAME)


def scores(value):
    row = {"suite": "alignment", "condition": "all", "metric": "token_f1", "system": "rba", "value": value}
    return {"systems": ["rba"], "scores": [row]}


def make_version(adapter="a", token_f1=0.5, passed=True, answer=None, alarms="none"):
    """A registered version whose student answers `adapter` and 4, the size of its one recording."""
    bundle = Path(f"{adapter}/bundle")
    for name in ("base", "adapter", "check"):
        (bundle / name).mkdir(parents=True)
    (bundle / "base/model.safetensors").write_text("base")
    (bundle / "adapter/adapter_model.safetensors").write_text(adapter)
    (bundle / "gate.json").write_text(json.dumps({"passed": passed}))
    (bundle / "scores.json").write_text(json.dumps(scores(token_f1)))
    (bundle / "check/one.wav").write_bytes(b"RIFF")
    (bundle / "check/answers.json").write_text(json.dumps({"one.wav": answer or f"{adapter}4"}))
    Path("toy_serving.py").write_text(SERVING)
    with tracking.open_run(NAME, Path(f"work/{adapter}")) as run_id:
        model_id = tracking.log_student(bundle, Path("toy_serving.py"))
        tags = {"method": "rba", "git_commit": "none", "data_sha256": "d" * 64}
        tags |= {"rank_by": "alignment/all/token_f1", "alarms": alarms, "report": "runs:/1"}
        version = tracking.register(NAME, run_id, model_id, "", tags)
        tracking.set_candidate(version)
    return version


def aliases(client):
    """Of the champions and of the candidates, whose versions are numbered apart."""
    models = client.search_registered_models()
    return {alias: str(number) for model in models for alias, number in model.aliases.items()}


def audit():
    return [json.loads(line) for line in Path("mlruns/audit.jsonl").read_text().splitlines()]


def test_promote_twice_then_rollback_twice(store):
    make_version("a", 0.5)
    first = tracking.promote(NAME, None, False, "the first")
    assert (first["from"], first["to"], first["action"]) == (None, "1", "promote")
    assert aliases(store) == {"candidate": "1", "champion": "1"}
    make_version("b", 0.6)
    second = tracking.promote(NAME, None, False, "")
    assert tracking.promote(NAME, None, False, "") == second
    assert aliases(store) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert [row["alias"] for row in tracking.compare(NAME)] == ["candidate", "champion", "previous"]
    assert [row["alignment/token_f1"] for row in tracking.compare(NAME)] == [0.6, 0.6, 0.5]
    back = tracking.rollback(NAME, "it mumbles")
    assert tracking.rollback(NAME, "again") == back
    assert aliases(store) == {"candidate": "2", "champion": "1", "previous": "1"}
    assert [(r["action"], r["from"], r["to"]) for r in audit()] == [
        ("promote", None, "1"), ("promote", "1", "2"), ("rollback", "2", "1"),
    ]  # fmt: skip


def test_killed_between_the_steps_promote_ends_alike(store, monkeypatch):
    make_version("a")
    tracking.promote(NAME, "1", False, "")
    make_version("b")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking, "crown", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        tracking.promote(NAME, "2", False, "")
    assert aliases(store) == {"candidate": "2", "champion": "1", "previous": "1"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking.getpass, "getuser", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        tracking.promote(NAME, "2", False, "")
    assert aliases(store)["champion"] == "2"
    assert len(audit()) == 1
    tracking.promote(NAME, "2", False, "")
    assert aliases(store) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert [(r["from"], r["to"]) for r in audit()] == [(None, "1"), ("1", "2")]


def test_an_alarm_keeps_a_version_from_promotion_until_a_person_says_why(store):
    make_version("a", alarms="length_drift, repetition")
    with pytest.raises(ValueError, match="candidate 1 raised alarms in training: length_drift, repetition"):
        tracking.promote(NAME, None, False, "")
    assert aliases(store) == {"candidate": "1"}
    assert tracking.promote(NAME, None, True, "long answers are wanted")["to"] == "1"


def test_what_waits_is_newer_than_the_champion(store):
    make_version("a", 0.5)
    make_version("b", 0.6, alarms="no_spread")
    assert [(w["version"], w["alarms"]) for w in tracking.waiting(NAME)] == [("2", "no_spread"), ("1", "none")]
    tracking.promote(NAME, "1", False, "")
    [left] = tracking.waiting(NAME)
    assert (left["version"], left["method"], left["alignment/all/token_f1"]) == ("2", "rba", 0.6)
    tracking.promote(NAME, "2", True, "it is better")
    assert tracking.waiting(NAME) == []


def test_new_data_is_aligned_from_the_champion_on(store):
    shutil.copy(Path(__file__).parents[1] / "params.yaml", "params.yaml")
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("model_name: speech-rba", f"model_name: {NAME}")
    )
    nightly.start_from_champion()
    assert yaml.safe_load(Path("params.yaml").read_text())["align"]["start_from"] is None
    for adapter, score in (("a", 0.5), ("b", 0.6)):
        version = make_version(adapter, score)
        tracking.promote(NAME, None, False, "")
        nightly.start_from_champion()
        start, _, content = yaml.safe_load(Path("params.yaml").read_text())["align"]["start_from"].partition("#")
        assert content == hashlib.sha256(adapter.encode()).hexdigest()[:16]
        start = Path(start)
        assert (start / "adapter_model.safetensors").read_text() == adapter
    shutil.rmtree(start)
    stored = Path(version.source.removeprefix("file://")) / tracking.BUNDLE / "adapter/adapter_model.safetensors"
    stored.write_text("x")
    with pytest.raises(ValueError, match="was changed"):
        nightly.start_from_champion()
    assert not start.exists()


def test_a_lower_score_needs_force_and_force_a_reason(store):
    make_version("a", 0.5)
    tracking.promote(NAME, None, False, "")
    make_version("b", 0.4)
    with pytest.raises(ValueError, match=r"0\.4000.*champion.*0\.5000"):
        tracking.promote(NAME, None, False, "")
    with pytest.raises(ValueError, match="needs a reason"):
        tracking.promote(NAME, None, True, "")
    assert aliases(store)["champion"] == "1"
    assert tracking.promote(NAME, None, True, "the test set changed")["reason"] == "the test set changed"
    assert aliases(store)["champion"] == "2"


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("adapter/adapter_model.safetensors", "adapter_sha256"),
        ("base/model.safetensors", "base_sha256"),
        ("gate.json", "gate_sha256"),
        ("check/answers.json", "model_sha256"),
    ],
)
def test_a_changed_file_is_refused(store, file, named):
    version = make_version()
    path = Path(version.source.removeprefix("file://")) / tracking.BUNDLE / file
    path.write_text("x")
    with pytest.raises(ValueError, match=named):
        tracking.promote(NAME, None, False, "")
    path.unlink()
    with pytest.raises(ValueError, match=named):
        tracking.promote(NAME, None, False, "")
    assert "champion" not in aliases(store)


def test_a_failed_gate_is_refused(store):
    make_version(passed=False)
    with pytest.raises(ValueError, match="did not pass its gate"):
        tracking.promote(NAME, None, True, "I want it")


def test_another_answer_after_the_reload_registers_nothing(store):
    with pytest.raises(ValueError, match=r"'a4' to one\.wav instead of 'a5'"):
        make_version(answer="a5")
    assert store.search_registered_models() == []
    [run] = store.search_runs([store.get_experiment_by_name(NAME).experiment_id])
    assert run.info.status == "FAILED"


def test_nothing_to_promote_or_roll_back_to(store):
    with pytest.raises(ValueError, match="no candidate"):
        tracking.promote(NAME, None, False, "")
    with pytest.raises(ValueError, match="no version 7"):
        tracking.promote(NAME, "7", False, "")
    with pytest.raises(ValueError, match="no previous"):
        tracking.rollback(NAME, "")
    assert tracking.compare(NAME) == []


def test_a_run_left_open_is_gone_on_with_and_closed(store):
    killed = store.create_run(store.get_experiment_by_name(NAME).experiment_id, tags={"inputs": "abc"})
    with tracking.open_run(NAME, Path("work/abc")) as run_id:
        assert run_id == killed.info.run_id
    assert store.get_run(run_id).info.status == "FINISHED"


def test_a_locked_database_is_waited_for(store):
    other = sqlite3.connect("mlruns/mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(6, other.rollback).start()  # sqlite itself gives up after 5 seconds
    with tracking.open_run(NAME, Path("work/abc")) as run_id:
        assert not other.in_transaction
    assert store.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_is_terminated_does_not_stay_running(store):
    with pytest.raises(SystemExit), tracking.open_run(NAME, Path("work/abc")) as run_id:
        os.kill(os.getpid(), signal.SIGTERM)
    assert store.get_run(run_id).info.status == "FAILED"


def test_training_curves_have_one_point_a_step_even_when_logged_twice(store):
    folder = Path("align/rba")
    folder.mkdir(parents=True)
    (folder / "training.json").write_text('{"method": "rba", "minutes": 2.0, "num_steps": 2}')
    rows = [{"step": s, "phase": "rba", "minutes": s / 2, "loss": 1.0 - s, "kl": 0.1} for s in (1, 2)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = store.create_run(store.get_experiment_by_name(NAME).experiment_id)
    for _ in range(2):
        store.log_batch(run.info.run_id, metrics=tracking.training_metrics(folder, run.info.start_time))
    history = store.get_metric_history(run.info.run_id, "train/rba/rba/loss")
    start = run.info.start_time
    assert [(m.step, m.value, m.timestamp - start) for m in history] == [(1, 0.0, 30_000), (2, -1.0, 60_000)]
    assert store.get_run(run.info.run_id).data.metrics["train/rba/num_steps"] == 2


def test_flatten():
    assert tracking.flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": 4}) == {"a.b": 1, "a.c.d": [2, 3], "e": 4}


def test_score_metrics():
    row = {"suite": "s", "condition": "all", "metric": "accuracy", "system": "rba", "value": 0.5}
    assert tracking.score_metrics(
        {
            "scores": [row],
            "recovery": [row | {"value": 0.25}],
            "wer": [{"suite": "s", "ears": "student", "condition": "babble", "value": 0.3, "n": 2}],
            "cost": [{"system": "rba", "tokens_per_s": 9.0, "real_time_factor": None}],
        }
    ) == {
        "rba/s/all/accuracy": 0.5,
        "rba/s/all/accuracy_recovery": 0.25,
        "heard/student/s/babble/wer": 0.3,
        "rba/cost/tokens_per_s": 9.0,
    }


def test_data_hashes_come_from_dvc_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking.data_hashes() == {}
    out = "{outs: [{path: artifacts/voice, md5: 0123456789abcdef0123456789abcdef.dir}]}"
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages: {{voice: {out}, gate: {out}}}")
    assert tracking.data_hashes() == {"artifacts/voice": "0123456789abcdef0123456789abcdef.dir"}


def test_git_commit_outside_a_repository_and_before_the_first_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking.git_commit() == "none"
    subprocess.run(["git", "init", "-q"], check=True)
    assert tracking.git_commit() == "none"


def test_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = tracking.digest(tmp_path)
    (tmp_path / "registered_model_meta").write_text("written by a reader")
    assert tracking.digest(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = tracking.digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, tracking.digest(tmp_path)}) == 3
