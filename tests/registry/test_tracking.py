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
from speech_rba.config import load_params
from speech_rba.errors import UserError
from speech_rba.records import Answer, write_jsonl
from speech_rba.registry import tracking

NAME = "toy"
ROOT = Path(__file__).parents[2]
RANK_BY = "alignment/all/accuracy"

# answers with the first byte of the adapter and the size of the recording
SERVING = """
from pathlib import Path
import mlflow
import pandas as pd

class Toy(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.bundle = Path(context.artifacts["bundle"])

    def predict(self, context, model_input, params=None):
        first = (self.bundle / "adapter/adapter_model.safetensors").read_bytes()[:1].decode()
        said = [f"{first}{len(audio)}" for audio in model_input["audio"]]
        return pd.DataFrame({"answer": said, "error": ""})

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


def params(**limits):
    """The project's parameters with the model's name of these tests."""
    whole = load_params(ROOT / "params.yaml")
    limits = whole.register_.limits.model_copy(update=limits)
    register = whole.register_.model_copy(update={"model_name": NAME, "limits": limits})
    return whole.model_copy(update={"register_": register})


def promote(version=None, force=False, reason="", **limits):
    return tracking.promote(params(**limits), version, force, reason)


def scores(value):
    suite, condition, metric = RANK_BY.split("/")
    row = {"suite": suite, "condition": condition, "metric": metric, "system": "rba", "value": value}
    return {"systems": ["rba"], "scores": [row]}


def answers(
    num_right, num_read_right=20, words=4, hypothesis="cats bark", split="test", prompt="cats bark", num=20
):
    """Of `num` rows one spoken clip each, `num_right` of them right, and what was answered to the text."""
    fields = {"suite": "alignment", "system": "rba", "voice": "v", "heldout_voice": False, "snr_db": None}
    fields |= {"judge_hypothesis": "", "response": "word " * words, "split": split, "prompt": prompt}
    spoken = [
        Answer(
            **fields, row_id=f"r{i}", clip_id=f"c{i}", condition="clean", hypothesis=hypothesis,
            metrics={"accuracy": float(i < num_right)},
        )
        for i in range(num)
    ]  # fmt: skip
    read = [
        Answer(
            **fields,
            row_id=f"r{i}",
            clip_id="",
            condition="text",
            metrics={"accuracy": float(i < num_read_right)},
        )
        for i in range(num)
    ]
    return spoken + read


def make_version(
    adapter="a",
    score=0.5,
    passed=True,
    answer=None,
    reward_hacking="none",
    answered=None,
    base="base",
    prompt="Be brief.",
):
    """A registered version whose student answers `adapter` and 4, the size of its one recording.

    Of 20 test clips it answered the share `score` right.
    """
    bundle = Path(f"{adapter}/bundle")
    for name in ("base", "adapter", "check"):
        (bundle / name).mkdir(parents=True)
    make_base(bundle / "base", base, prompt)
    (bundle / "adapter/adapter_model.safetensors").write_text(adapter)
    (bundle / "gate.json").write_text(json.dumps({"passed": passed}))
    (bundle / "scores.json").write_text(json.dumps(scores(score)))
    if answered != "none":
        write_jsonl(bundle / "answers.jsonl", answered or answers(round(20 * score)))
    (bundle / "check/one.wav").write_bytes(b"RIFF")
    (bundle / "check/answers.json").write_text(json.dumps({"one.wav": answer or f"{adapter}4"}))
    Path("toy_serving.py").write_text(SERVING)
    with tracking.open_run(NAME, Path(f"work/{adapter}")) as run_id:
        model_id = tracking.log_student(bundle, Path("toy_serving.py"))
        tags = {"method": "rba", "git_commit": "c" * 40 + "-dirty", "data_sha256": "d" * 64}
        tags |= {"rank_by": RANK_BY, "reward_hacking": reward_hacking, "report": "runs:/1"}
        version = tracking.register(NAME, run_id, model_id, "", tags)
        tracking.set_candidate(version)
    return version


def make_base(folder, weights="base", prompt="Be brief."):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(weights)
    config = {"model_type": "toy", "language_model": "lm", "audio_tower": "tower", "system_prompt": prompt}
    (folder / "config.json").write_text(json.dumps(config))


def stored(version):
    """The folder of a version in the store."""
    return Path("mlruns/artifacts") / version.source.removeprefix("mlflow-artifacts:/")


def make_by_hand(client, name):
    """A version as a person registers it in MLflow's own page: no tag."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, "mlflow-artifacts:/0/somewhere")


def aliases(client):
    """Of the champions and of the candidates, whose versions are numbered apart."""
    models = client.search_registered_models()
    return {alias: str(number) for model in models for alias, number in model.aliases.items()}


def audit():
    return [json.loads(line) for line in Path("mlruns/audit.jsonl").read_text().splitlines()]


def test_promote_twice_then_rollback_twice(store):
    make_version("a", 0.5)
    first = promote(None, reason="the first")
    assert (first["from"], first["to"], first["action"]) == (None, "1", "promote")
    assert aliases(store) == {"candidate": "1", "champion": "1"}
    make_version("b", 0.6)
    second = promote(None)
    assert promote(None) == second
    assert aliases(store) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert [row["alias"] for row in tracking.compare(NAME)] == ["candidate", "champion", "previous"]
    assert [row["alignment/accuracy"] for row in tracking.compare(NAME)] == [0.6, 0.6, 0.5]
    back = tracking.rollback(NAME, "it mumbles")
    assert tracking.rollback(NAME, "again") == back
    assert aliases(store) == {"candidate": "2", "champion": "1", "previous": "1"}
    assert [(r["action"], r["from"], r["to"]) for r in audit()] == [
        ("promote", None, "1"), ("promote", "1", "2"), ("rollback", "2", "1"),
    ]  # fmt: skip


def test_killed_between_the_steps_promote_ends_alike(store, monkeypatch):
    make_version("a")
    promote("1")
    make_version("b")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking, "set_champion", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        promote("2")
    assert aliases(store) == {"candidate": "2", "champion": "1", "previous": "1"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking.getpass, "getuser", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        promote("2")
    assert aliases(store)["champion"] == "2"
    assert len(audit()) == 1
    promote("2")
    assert aliases(store) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert [(r["from"], r["to"]) for r in audit()] == [(None, "1"), ("1", "2")]


def test_an_alarm_keeps_a_version_from_promotion_until_a_person_says_why(store):
    make_version("a", reward_hacking="length_drift, repetition")
    with pytest.raises(ValueError, match="reward_hacking in training: length_drift, repetition; look"):
        promote(None)
    assert aliases(store) == {"candidate": "1"}
    assert promote(None, True, "long answers are wanted")["to"] == "1"


def test_what_waits_is_newer_than_the_champion(store):
    make_version("a", 0.5)
    make_version("b", 0.6, reward_hacking="no_spread")
    assert [(w["version"], w["reward_hacking"]) for w in tracking.waiting(NAME)] == [
        ("2", "no_spread"),
        ("1", "none"),
    ]
    promote("1")
    [left] = tracking.waiting(NAME)
    assert (left["version"], left["method"], left["alignment/all/accuracy"]) == ("2", "rba", 0.6)
    promote("2", True, "it is better")
    assert tracking.waiting(NAME) == []


def test_new_data_is_aligned_from_the_champion_on(store):
    shutil.copy(Path(__file__).parents[2] / "params.yaml", "params.yaml")
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("model_name: speech-rba", f"model_name: {NAME}")
    )
    nightly.start_from_champion()
    assert yaml.safe_load(Path("params.yaml").read_text())["align"]["start_from"] is None
    for adapter, score in (("a", 0.5), ("b", 0.6)):
        version = make_version(adapter, score)
        promote(None)
        nightly.start_from_champion()
        start, _, content = yaml.safe_load(Path("params.yaml").read_text())["align"]["start_from"].partition(
            "#"
        )
        assert content == hashlib.sha256(adapter.encode()).hexdigest()[:16]
        start = Path(start)
        assert (start / "adapter_model.safetensors").read_text() == adapter
    shutil.rmtree(start)
    (stored(version) / tracking.BUNDLE / "adapter/adapter_model.safetensors").write_text("x")
    with pytest.raises(ValueError, match="was changed"):
        nightly.start_from_champion()
    assert not start.exists()


def test_a_significantly_worse_version_needs_force_and_force_a_reason(store):
    make_version("a", 0.9)
    promote()
    make_version("b", 0.4)
    with pytest.raises(
        UserError, match=r"0\.4000, the champion 0\.9000 on the same 20 clips of 20 rows: -0\.5"
    ):
        promote()
    with pytest.raises(UserError, match="needs a reason"):
        promote(None, True)
    assert aliases(store)["champion"] == "1"
    forced = promote(None, True, "the test set changed")
    assert (forced["reason"], forced["forced"]) == ("the test set changed", ["alignment/all/accuracy"])
    assert aliases(store)["champion"] == "2"


def test_a_lower_score_that_is_not_significant_passes(store):
    make_version("a", 0.5)
    promote()
    make_version("b", 0.45)  # one of 20 rows
    record = promote()
    assert record["to"] == "2" and record["forced"] == []
    assert record["checks"][1].startswith(
        "alignment/all/accuracy: 0.4500, the champion 0.5000 on the same 20 clips"
    )


def test_every_check_that_fails_is_told_with_its_limit(store):
    make_version("a", answered=answers(18))
    promote()
    worse = answers(2, num_read_right=18, words=2, hypothesis="cats park")
    make_version("b", answered=worse, reward_hacking="repetition")
    with pytest.raises(UserError) as refused:
        promote()
    first, *lines = str(refused.value).splitlines()
    assert first.startswith("candidate 2 is not promoted")
    assert [line.split(": ")[0].strip() for line in lines] == [
        "reward_hacking in training", "alignment/all/accuracy", "text ability (alignment/text/accuracy)",
        "length (words an answer)", "word error rate",
    ]  # fmt: skip
    assert "0.9000, the champion 1.0000: lower by 0.1000; at most 0.05" in lines[2]
    assert "a ratio of 2.00; at most 1.5" in lines[3] and "higher by 0.5000; at most 0.02" in lines[4]
    assert aliases(store)["champion"] == "1"


def test_without_answers_that_can_be_compared_only_force_promotes(store):
    make_version("a", answered="none")
    promote()
    make_version("b")
    with pytest.raises(UserError, match="answers: toy version 1 has none stored"):
        promote()
    promote(None, True, "the first with answers")
    make_version("c", answered=answers(20, prompt="another text"))
    with pytest.raises(UserError, match=r"accuracy: 0 common test rows are too few to compare; at least 20"):
        promote()


def test_another_base_is_told_and_compared_all_the_same(store):
    make_version("a", 0.5)
    promote()
    make_version("b", 0.6, base="other weights")
    assert "base: differs from the champion's: more than the adapter changed" in promote()["checks"]


def test_the_champions_adapter_is_not_gone_on_with_on_another_base(store):
    make_version("a", prompt="Answer in Latin.")
    promote()
    assert tracking.fetch_champion(NAME, Path("work/champions")) == Path("work/champions/1")  # no base yet
    make_base(Path("artifacts/base"), prompt="Answer in Latin.")
    assert tracking.fetch_champion(NAME, Path("work/champions")) == Path("work/champions/1")
    make_base(Path("artifacts/base"), prompt="Be brief.")
    with pytest.raises(
        UserError, match=r"another base: system_prompt \(Answer in Latin\., here Be brief\.\)"
    ):
        tracking.fetch_champion(NAME, Path("work/champions"))
    make_base(Path("artifacts/base"), "trained anew", "Answer in Latin.")
    with pytest.raises(UserError, match=r"another base: weights"):
        tracking.fetch_champion(NAME, Path("work/champions"))


def test_a_version_made_by_hand_is_told_and_not_promoted(store):
    make_version("a")
    promote()
    make_by_hand(store, f"{NAME}-candidates")
    store.set_registered_model_alias(f"{NAME}-candidates", "candidate", "2")
    assert [(r["version"], r["method"]) for r in tracking.waiting(NAME)] == [
        ("2", "made by hand in MLflow: cannot be promoted")
    ]
    assert tracking.compare(NAME)[0] == {
        "alias": "candidate",
        "version": "2",
        "method": "made by hand in MLflow",
    }
    with pytest.raises(
        UserError, match="toy-candidates version 2 was not made by the register stage, since it has no"
    ):
        promote()
    store.set_registered_model_alias(NAME, "champion", make_by_hand(store, NAME).version)
    with pytest.raises(UserError, match="champion: toy version 2 was made by hand in MLflow"):
        promote("1", reason="")
    assert [r["version"] for r in tracking.waiting(NAME)] == ["2", "1"]
    with pytest.raises(UserError, match="toy version 2 was not made by the register stage"):
        tracking.fetch_champion(NAME, Path("work/champions"))


def test_what_was_deleted_in_mlflow_is_told(store):
    make_version("a")
    make_version("b")
    promote("1")
    store.delete_model_version(f"{NAME}-candidates", "2")
    with pytest.raises(
        UserError, match="newest version of toy-candidates was deleted in MLflow; left: 1; name one"
    ):
        promote()
    assert tracking.compare(NAME)[0]["method"].startswith("the newest version of toy-candidates was deleted")
    assert tracking.waiting(NAME) == [{"version": "newest", "method": "deleted in MLflow"}]
    store.delete_model_version(NAME, "1")
    with pytest.raises(UserError, match="champion: deleted in MLflow, or its alias"):
        promote("1")
    store.delete_model_version(f"{NAME}-candidates", "1")
    with pytest.raises(
        UserError, match="all versions of toy-candidates were deleted in MLflow: register again"
    ):
        promote()
    store.delete_registered_model(f"{NAME}-candidates")
    Path("artifacts/register").mkdir(parents=True)
    Path("artifacts/register/registration.json").write_text("{}")
    for command in (promote, lambda: tracking.compare(NAME), lambda: tracking.waiting(NAME)):
        with pytest.raises(
            UserError, match="toy-candidates was deleted in MLflow, or registered on another server"
        ):
            command()


def test_a_deleted_experiment_is_told_and_restored_as_told(store):
    number = store.get_experiment_by_name(NAME).experiment_id
    store.delete_experiment(number)
    with pytest.raises(
        UserError, match=rf"toy is deleted in MLflow: restore it with `.*--experiment-id {number}`"
    ):
        tracking.compare(NAME)
    store.restore_experiment(number)
    make_version("a")


def test_a_project_folder_may_be_renamed_and_copied(store, tmp_path, monkeypatch):
    project, renamed, copy = (tmp_path / name for name in ("a project", "ümlaut & spaces", "copy"))

    def go_to(folder):
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets for its own process

    project.mkdir()
    shutil.move("mlruns", project / "mlruns")
    go_to(project)
    make_version("a", 0.5)
    promote()
    make_version("b", 0.6)
    assert str(tmp_path).encode() not in Path("mlruns/mlflow.db").read_bytes()
    project.rename(renamed)
    go_to(renamed)
    assert promote()["to"] == "2"
    shutil.copytree(renamed, copy)
    before = tracking.digest(renamed / "mlruns")
    go_to(copy)
    assert [row["alignment/accuracy"] for row in tracking.compare(NAME)] == [0.6, 0.6, 0.5]
    assert tracking.rollback(NAME, "it mumbles")["to"] == "1"
    make_version("c")
    assert tracking.digest(renamed / "mlruns") == before
    assert len(list(Path("mlruns/artifacts").glob("*/models/*/artifacts/MLmodel"))) == 3


def test_an_experiment_is_made_as_a_server_makes_it(store):
    made = store.get_experiment_by_name(NAME)
    assert made.artifact_location == f"mlflow-artifacts:/{made.experiment_id}"


def test_runs_that_an_earlier_version_writes_to_another_folder_are_refused(store, tmp_path):
    here, there = (tmp_path / "mlruns/artifacts").as_uri(), (tmp_path / "elsewhere/mlruns/artifacts").as_uri()
    store.create_experiment("here", here)
    tracking.connect("here")
    store.create_experiment("there", there)
    with pytest.raises(
        UserError, match=rf"the runs of there in mlruns/ are written to {there}, which is not in this"
    ):
        tracking.connect("there")


@pytest.mark.parametrize(
    "uri", ["127.0.0.1:5000", "localhost", "mlruns", "ftp://host", "http://", "postgresql://host"]
)
def test_an_address_of_no_server_is_one_line(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        UserError, match=rf"MLFLOW_TRACKING_URI is '{uri}': write the server as http://HOST:PORT"
    ):
        tracking.compare(NAME)


def test_a_broken_database_is_one_line(store, monkeypatch, tmp_path):
    Path("broken.db").write_text("no database at all, but long enough to be read as one" * 99)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    with pytest.raises(
        UserError, match=r"the database sqlite:.*broken\.db cannot be used: .*sqlite3"
    ) as refused:
        tracking.compare(NAME)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("INVALID: Permission denied", "does not let .* do this: ask a reviewer"),
        ("API request failed with error code 401 != 200", "does not know .* with this password: set MLFLOW_"),
        ("Invalid Host header - possible DNS rebinding", "does not go by the name in "),
        ("to x failed with exception (Caused by Failed to resolve 'x' (y))", r"answers at .*resolve 'x'\)$"),
    ],
)
def test_known_refusals_of_mlflow_are_one_line(message, line):
    with pytest.raises(UserError, match=line), tracking.refusals():
        raise tracking.MlflowException(message)


def test_what_is_not_known_keeps_its_traceback():
    for error in (
        tracking.MlflowException("a fault of MLflow"),
        PermissionError("[Errno 13] Permission denied: 'a'"),
    ):
        with pytest.raises(type(error)) as raised, tracking.refusals():
            raise error
        assert raised.value is error


def test_a_missing_file_is_told_where_it_is_read(store):
    version = make_version("a")
    (stored(version) / tracking.BUNDLE / "scores.json").write_text("{")
    with pytest.raises(
        UserError, match=r"scores\.json stored with toy-candidates version 1 is broken: register"
    ):
        tracking.compare(NAME)
    (stored(version) / tracking.BUNDLE / "scores.json").unlink()
    for command in (tracking.compare, tracking.waiting):
        with pytest.raises(
            UserError, match=r"toy-candidates/1/artifacts/bundle/scores\.json are not in the store"
        ):
            command(NAME)
    shutil.rmtree(stored(version))
    with pytest.raises(UserError, match=r"toy-candidates/1 are not in the store"):
        promote()


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
    path = stored(version) / tracking.BUNDLE / file
    path.write_text("x")
    with pytest.raises(ValueError, match=named):
        promote(None)
    path.unlink()
    with pytest.raises(ValueError, match=named):
        promote(None)
    assert "champion" not in aliases(store)


def test_a_failed_gate_is_refused(store):
    make_version(passed=False)
    with pytest.raises(ValueError, match="did not pass its gate"):
        promote(None, True, "I want it")


def test_another_answer_after_the_reload_registers_nothing(store):
    with pytest.raises(ValueError, match=r"'a4' to one\.wav instead of 'a5'"):
        make_version(answer="a5")
    assert store.search_registered_models() == []
    [run] = store.search_runs([store.get_experiment_by_name(NAME).experiment_id])
    assert run.info.status == "FAILED"


def test_nothing_to_promote_or_roll_back_to(store):
    with pytest.raises(UserError, match="nothing is registered yet: run `make run`"):
        promote()
    with pytest.raises(UserError, match="has no version 7: it has none"):
        promote("7")
    with pytest.raises(UserError, match="no previous"):
        tracking.rollback(NAME, "")
    with pytest.raises(UserError, match="nothing is registered yet: run `make run`"):
        tracking.compare(NAME)
    assert tracking.waiting(NAME) == []


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
    assert tracking.flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": 4}) == {
        "a.b": 1,
        "a.c.d": [2, 3],
        "e": 4,
    }


def test_score_metrics():
    row = {"suite": "s", "condition": "all", "metric": "accuracy", "system": "rba", "value": 0.5}
    assert tracking.score_metrics(
        {
            "scores": [row],
            "validation": [row | {"value": 0.75}],
            "recovery": [row | {"value": 0.25}],
            "wer": [{"suite": "s", "asr_adapter": "student", "condition": "babble", "value": 0.3, "n": 2}],
            "cost": [{"system": "rba", "tokens_per_s": 9.0, "real_time_factor": None}],
        }
    ) == {
        "rba/s/all/accuracy": 0.5,
        "validation/rba/s/all/accuracy": 0.75,
        "rba/s/all/accuracy_recovery": 0.25,
        "heard/student/s/babble/wer": 0.3,
        "rba/cost/tokens_per_s": 9.0,
    }


def test_data_hashes_come_from_dvc_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking.data_hashes() == {}
    out = "{outs: [{path: artifacts/voice, md5: 0123456789abcdef0123456789abcdef.dir}]}"
    suite = out.replace("voice", "suite/qa")
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages: {{voice: {out}, suite@qa: {suite}, gate: {out}}}")
    assert tracking.data_hashes() == {
        "artifacts/voice": "0123456789abcdef0123456789abcdef.dir",
        "artifacts/suite/qa": "0123456789abcdef0123456789abcdef.dir",
    }


def make_repository():
    Path("src").mkdir()
    for file, text in (("src/code.py", "1"), ("params.yaml", "1"), ("dvc.lock", "1"), ("README.md", "1")):
        Path(file).write_text(text)
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], check=True)


def test_git_commit_tells_uncommitted_code_and_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_repository()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path("dvc.lock").write_text("2")  # as a run does
    Path("README.md").write_text("2")
    assert tracking.git_commit() == commit
    Path("params.yaml").write_text("2")
    assert tracking.git_commit() == f"{commit}-dirty"
    assert tracking.short_commit(f"{commit}-dirty") == f"{commit[:12]}-dirty"
    subprocess.run(["git", "checkout", "-q", "params.yaml"], check=True)
    Path("src/new.py").write_text("1")
    assert tracking.git_commit() == f"{commit}-dirty"


def test_an_unknown_commit_has_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking.git_commit().startswith("unknown: fatal: not a git repository")
    subprocess.run(["git", "init", "-q"], check=True)
    assert tracking.git_commit() == "unknown: fatal: Needed a single revision"
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for its tests
    reason = tracking.git_commit()
    assert reason.startswith("unknown: fatal: detected dubious ownership") and "\n" not in reason
    assert tracking.short_commit(reason) == reason
    monkeypatch.setenv("PATH", "")
    assert tracking.git_commit() == "unknown: git is not installed"


def test_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = tracking.digest(tmp_path)
    (tmp_path / "registered_model_meta").write_text("written by a reader")
    assert tracking.digest(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = tracking.digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, tracking.digest(tmp_path)}) == 3
