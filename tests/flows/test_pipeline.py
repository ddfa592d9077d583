"""Real DVC repositories, a real Prefect server and real processes, on three tiny stages."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

import speech_rba
from flows import stages
from flows.deployment import deploy
from flows.pipeline import check_server, main, pipeline, results_table, serve
from flows.progress import PROGRESS, read_times
from flows.terminal import LOG
from speech_rba.errors import UserError

PASSWORD = "operator:right"
PROJECT = ":".join(str(Path(module.__file__).parents[1]) for module in (speech_rba, stages))
STAGE = """
import ctypes, pathlib, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # as every stage
name, *deps = sys.argv[1:]
with open("runs.txt", "a") as runs:
    runs.write(name + "\\n")
command = pathlib.Path("command.txt").read_text()
if command == name + " fails":
    sys.exit("error: no luck today")
if command == name + " sleeps":
    pathlib.Path("asleep").touch()
    time.sleep(120)
pathlib.Path(name).write_text(name + "".join(pathlib.Path(d).read_text() for d in deps))
"""
DVC_YAML = """
stages:
  last: {cmd: exec python stage.py last x y, deps: [x, y], outs: [last]}
  middle:
    matrix: {k: [x, y]}
    cmd: "exec python stage.py ${item.k} first ${item.k}.txt"
    deps: [first, "${item.k}.txt"]
    outs: ["${item.k}"]
  trained: {frozen: true, cmd: "exec false", deps: [stage.py], outs: [weights: {cache: false}]}
  first: {cmd: exec python stage.py first, deps: [stage.py], outs: [first]}
"""


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    files = {"dvc.yaml": DVC_YAML, "stage.py": STAGE, "x.txt": "1", "y.txt": "2"}
    files |= {"command.txt": "", "runs.txt": "", "weights": "w"}
    for name, text in files.items():
        (folder / name).write_text(text)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def toy(toy_template, tmp_path, monkeypatch) -> Path:
    """The working directory: a DVC repository whose stages have not run."""
    folder = tmp_path / "toy"
    shutil.copytree(toy_template, folder)
    monkeypatch.chdir(folder)
    stages.CLOSED.clear()
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a Prefect server with a password and a home of the test, which this process uses too."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_HOME: home}):
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", PASSWORD)
        patch.delenv("PREFECT_API_URL", raising=False)
        url = serve()
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: PASSWORD}):
            yield url


def outcomes() -> dict[str, str]:
    """The outcome of each stage by name, in order, of a flow that must end well."""
    state = pipeline(return_state=True)
    assert state.is_completed(), state.message
    return dict(item.split(": ") for item in state.message.split(", "))


def start_flow(url: str) -> subprocess.Popen:
    """The flow as a service starts it: without $SHELL, DVC runs a stage in sh, which would outlive both."""
    env = {k: v for k, v in os.environ.items() if k != "SHELL"}
    env |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": PASSWORD, "PYTHONPATH": PROJECT}
    command = [sys.executable, "-m", "flows.pipeline"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def lives(process: psutil.Process) -> bool:
    """Whether it can still run: some containers collect no orphans, which stay as zombies."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_only_changed_stages_run(toy, server, monkeypatch):
    ran = dict.fromkeys(["first", "middle@x", "middle@y", "last"], "Completed")
    assert outcomes() == ran | {"trained": "Verified"}
    order = Path("runs.txt").read_text().split()
    assert order[0] == "first" and order[-1] == "last" and sorted(order[1:3]) == ["x", "y"]
    assert Path("last").read_text() == "lastxfirst1yfirst2"
    assert set(read_times()) == set(ran)  # the frozen stage did not run
    assert {stage.state for stage in PROGRESS.stages.values()} == {"Completed", "Verified"}

    with monkeypatch.context() as patch:
        patch.setattr(stages, "start", lambda command: pytest.fail(f"{command} for an unchanged stage"))
        assert set(outcomes().values()) == {"Skipped"}

    Path("y.txt").write_text("3")
    Path("x").unlink()
    expected = {"first": "Skipped", "middle@x": "Restored", "middle@y": "Completed", "last": "Completed"}
    assert outcomes() == expected | {"trained": "Skipped"}
    assert Path("last").read_text() == "lastxfirst1yfirst3"
    assert Path("runs.txt").read_text().split()[4:] == ["y", "last"]


def test_after_a_failed_stage_none_runs_and_its_last_lines_are_the_error(toy, server, capfd):
    Path("command.txt").write_text("x fails")
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value).startswith("error: middle@x exited with")
    assert str(caught.value).endswith(f"error: no luck today\nlog: {LOG}")
    assert "last" not in Path("runs.txt").read_text().split()
    assert PROGRESS.stages["middle@x"].state == "Failed" and PROGRESS.stages["last"].state == "Waiting"
    printed = capfd.readouterr().out.splitlines()
    assert printed.index("first: running") < printed.index("middle@x: running")
    assert any(line.startswith("middle@x: failed in 0:") for line in printed)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_flow(toy, server, signal_number):
    Path("command.txt").write_text("first sleeps")
    flow = start_flow(server)
    wait_for(Path("asleep").exists)
    children = psutil.Process(flow.pid).children(recursive=True)
    assert any("stage.py" in " ".join(child.cmdline()) for child in children)
    flow.send_signal(signal_number)
    output, _ = flow.communicate(timeout=60)
    assert flow.returncode != 0
    wait_for(lambda: not any(lives(child) for child in children), seconds=30)
    assert "first: running" in output.splitlines() and "prefect" not in output
    assert "Beginning flow run" in LOG.read_text()

    Path("command.txt").write_text("")
    stages.check_project()
    assert stages.run_stage("first", None, print) == "Completed"  # no lock is left


def test_a_stage_that_takes_too_long_is_killed(toy):
    Path("command.txt").write_text("first sleeps")
    with pytest.raises(stages.StageError, match=r"first did not end in 6 s and was stopped"):
        stages.run_stage("first", 6, print)
    assert not stages.LIVE
    others = [process for process in psutil.process_iter(["cwd", "pid"]) if process.pid != os.getpid()]
    assert str(toy) not in [process.info["cwd"] for process in others]


def test_no_process_starts_once_the_flow_stops():
    stages.stop_all()
    with pytest.raises(stages.StageError, match="stopping"):
        stages.start([sys.executable, "-c", "pass"])


def test_lines_keep_one_of_a_progress_bar_and_omit_the_advice_of_dvc():
    raw = b"one\n\n\r 1%\r 2%\r 3%\r 4%\ntwo\r\n\tgit add dvc.lock\nUse `dvc push` to send\nthree\n"
    stream = io.TextIOWrapper(io.BytesIO(raw))
    assert list(stages.lines(stream)) == ["one", "1%", "4%", "two", "three"]


def test_a_lock_whose_owner_is_gone_is_removed(tmp_path):
    lock = tmp_path / "rwlock"
    lock.write_text(json.dumps({"read": {"a": [{"pid": os.getpid(), "cmd": "dvc repro"}]}, "write": {}}))
    stages.drop_stale_lock(lock)
    assert lock.exists()
    os.utime(lock, (0, 0))  # written before this process started: its id belonged to another one
    stages.drop_stale_lock(lock)
    assert not lock.exists()


def test_a_folder_without_a_pipeline_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no dvc\.yaml in .*; run from the project's top folder"):
        stages.check_project()
    Path("dvc.yaml").touch()
    with pytest.raises(ValueError, match="run: git init"):
        stages.check_project()
    Path(".git").mkdir()
    with pytest.raises(ValueError, match="run: dvc init"):
        stages.check_project()
    Path(".dvc").mkdir()
    with pytest.raises(ValueError, match=r"git does not read .*not a git repository"):  # .git is empty
        stages.check_project()


def test_results_table():
    def score(suite, system, condition, value):
        rest = {"metric": "accuracy", "low": 0.2, "high": 0.4, "n": 90}
        return {"suite": suite, "system": system, "condition": condition, "value": value, **rest}

    rows = [
        score("qa", "text", "text", 0.344),
        score("qa", "rba", "babble", 0.1),
        score("qa", "rba", "all", None),
    ]
    assert results_table({"systems": ["text", "base", "rba"], "scores": rows}).splitlines() == [
        "| system | qa accuracy |",
        "| --- | --- |",
        "| text | 0.344 (0.200 to 0.400), n 90 |",
        "| base |  |",
        "| rba | - |",
    ]


def test_a_lock_of_a_zombie_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE)
    lock = tmp_path / "rwlock"
    lock.write_text(json.dumps({"write": {"a": {"pid": dead.pid, "cmd": "dvc repro"}}}))
    stages.drop_stale_lock(lock)
    assert not lock.exists()
    dead.wait()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "127.0.0.1:4200/api", "http://host.invalid/api"])
def test_a_server_that_does_not_answer_is_one_line(url):
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(UserError) as caught:
        check_server()
    assert str(caught.value).startswith(f"Prefect at {url}: no answer (") and "\n" not in str(caught.value)
    assert str(caught.value).endswith("set PREFECT_API_URL to http://HOST:PORT/api")


@pytest.mark.parametrize("password", ["", "operator:wrong"])
def test_a_wrong_password_is_one_line(toy, server, password):
    with temporary_settings({PREFECT_API_AUTH_STRING: password}):
        for command in (main, lambda: deploy(toy, toy / "clone", "pool")):
            with pytest.raises((SystemExit, UserError)) as caught:
                command()
            message = str(caught.value).removeprefix("error: ")
            assert (
                message.startswith(f"Prefect at {server}: it does not take this password")
                and "\n" not in message
            )
            assert message.endswith("set PREFECT_API_AUTH_STRING to USER:PASSWORD")


def test_a_graph_that_dvc_cannot_read_is_the_error_of_the_run(toy, server):
    Path("dvc.yaml").write_text("stages: {first: {cmd: 1}}")
    with pytest.raises(SystemExit, match=r"error: DVC cannot read the pipeline: .*\nlog: work/logs/run.log$"):
        main()
