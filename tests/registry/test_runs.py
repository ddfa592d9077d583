"""MLflow runs: resumed after a kill, with metrics that are logged once, and the commit they came from."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from toy import NAME

from speech_rba.registry import runs
from speech_rba.registry.scores import score_metrics


def test_a_run_left_open_is_resumed_and_closed(store):
    killed = store.create_run(store.get_experiment_by_name(NAME).experiment_id, tags={"inputs": "abc"})
    with runs.open_run(NAME, Path("work/abc")) as run_id:
        assert run_id == killed.info.run_id
    assert store.get_run(run_id).info.status == "FINISHED"


def test_a_terminated_run_is_closed_as_failed(store):
    with pytest.raises(SystemExit), runs.open_run(NAME, Path("work/abc")) as run_id:
        os.kill(os.getpid(), signal.SIGTERM)
    assert store.get_run(run_id).info.status == "FAILED"


def test_training_curves_logged_twice_have_one_point_a_step(store):
    folder = Path("align/rba")
    folder.mkdir(parents=True)
    (folder / "training.json").write_text('{"method": "rba", "minutes": 2.0, "num_steps": 2}')
    rows = [{"step": s, "phase": "rba", "minutes": s / 2, "loss": 1.0 - s, "kl": 0.1} for s in (1, 2)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = store.create_run(store.get_experiment_by_name(NAME).experiment_id)
    for _ in range(2):
        store.log_batch(run.info.run_id, metrics=runs.training_metrics(folder, run.info.start_time))
    history = store.get_metric_history(run.info.run_id, "train/rba/rba/loss")
    start = run.info.start_time
    assert [(m.step, m.value, m.timestamp - start) for m in history] == [(1, 0.0, 30_000), (2, -1.0, 60_000)]
    assert store.get_run(run.info.run_id).data.metrics["train/rba/num_steps"] == 2


def test_parameters_are_named_by_their_path():
    nested = {"a": {"b": 1, "c": {"d": [2, 3]}}, "e": 4}
    assert runs.flatten(nested) == {"a.b": 1, "a.c.d": [2, 3], "e": 4}


def test_metrics_are_named_by_system_suite_condition_and_metric():
    row = {"suite": "s", "condition": "all", "metric": "accuracy", "system": "rba", "value": 0.5}
    scores = {
        "scores": [row],
        "validation": [row | {"value": 0.75}],
        "recovery": [row | {"value": 0.25}],
        "wer": [{"suite": "s", "asr_adapter": "student", "condition": "babble", "value": 0.3, "n": 2}],
        "people": [
            {
                "suite": "voices",
                "set": "80 % (loud)",
                "condition": condition,
                "transcribers": [
                    {"transcriber": "Whisper", "wer": 0.25},
                    {"transcriber": "student", "wer": 0.5},
                ],
                "difference": {"value": 0.25},
            }
            for condition in ("clean", "hum")
        ],
        "cost": [{"system": "rba", "tokens_per_s": 9.0, "real_time_factor": None}],
    }
    assert score_metrics(scores) == {
        "rba/s/all/accuracy": 0.5,
        "validation/rba/s/all/accuracy": 0.75,
        "rba/s/all/accuracy_recovery": 0.25,
        "transcriber/student/s/babble/wer": 0.3,
        "people/Whisper/voices/80 _ _loud_/clean/wer": 0.25,
        "people/student/voices/80 _ _loud_/clean/wer": 0.5,
        "people/difference/voices/80 _ _loud_/clean/wer": 0.25,
        "rba/cost/tokens_per_s": 9.0,
    }


def test_data_hashes_come_from_dvc_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.data_hashes() == {}
    out = "{outs: [{path: artifacts/voice, md5: 0123456789abcdef0123456789abcdef.dir}]}"
    suite = out.replace("voice", "suite/qa")
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages: {{voice: {out}, suite@qa: {suite}, gate: {out}}}")
    assert runs.data_hashes() == {
        "artifacts/voice": "0123456789abcdef0123456789abcdef.dir",
        "artifacts/suite/qa": "0123456789abcdef0123456789abcdef.dir",
    }


def make_repository():
    Path("src").mkdir()
    for file in ("src/code.py", "params.yaml", "dvc.lock", "README.md"):
        Path(file).write_text("1")
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], check=True)


def test_a_commit_is_dirty_with_changed_code_or_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_repository()
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = done.stdout.strip()
    Path("dvc.lock").write_text("2")  # as a run does
    Path("README.md").write_text("2")
    assert runs.git_commit() == commit
    Path("params.yaml").write_text("2")
    assert runs.git_commit() == f"{commit}-dirty"
    assert runs.short_commit(f"{commit}-dirty") == f"{commit[:12]}-dirty"
    subprocess.run(["git", "checkout", "-q", "params.yaml"], check=True)
    Path("src/new.py").write_text("1")
    assert runs.git_commit() == f"{commit}-dirty"


def test_an_unknown_commit_has_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.git_commit().startswith("unknown: fatal: not a git repository")
    subprocess.run(["git", "init", "-q"], check=True)
    assert runs.git_commit() == "unknown: fatal: Needed a single revision"
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # a switch of git for tests
    reason = runs.git_commit()
    assert reason.startswith("unknown: fatal: detected dubious ownership") and "\n" not in reason
    assert runs.short_commit(reason) == reason
    monkeypatch.setenv("PATH", "")
    assert runs.git_commit() == "unknown: git is not installed"
