"""Real DVC repositories, a real Prefect server and real processes, on three tiny stages."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

import speech_rba
from flows import stages
from flows.pipeline import pipeline, results_table, serve

PROJECT = ":".join(str(Path(module.__file__).parents[1]) for module in (speech_rba, stages))
STAGE = """
import ctypes, pathlib, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # as every stage does
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


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "dvc.yaml": DVC_YAML,
        "stage.py": STAGE,
        "x.txt": "1",
        "y.txt": "2",
        "command.txt": "",
        "runs.txt": "",
        "weights": "w",
    }
    for name, text in files.items():
        Path(name).write_text(text)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    stages.CLOSED.clear()
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a Prefect server with a home of its own, used by this process too."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_HOME: home}):
        patch.setenv("PREFECT_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        url = serve()
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


def run_pipeline() -> dict[str, str]:
    """The outcome of each stage by name, and the order, of a flow that must end well."""
    state = pipeline(return_state=True)
    assert state.is_completed(), state.message
    return dict(item.split(": ") for item in state.message.split(", "))


def start_flow(url: str) -> subprocess.Popen:
    """The flow as a service starts it: without $SHELL, DVC runs a stage in sh, which would outlive both."""
    env = {k: v for k, v in os.environ.items() if k != "SHELL"}
    env |= {"PREFECT_API_URL": url, "PYTHONPATH": PROJECT}
    command = [sys.executable, "-m", "flows.pipeline"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def lives(process: psutil.Process) -> bool:
    """Whether it can still do anything: in some containers nobody collects the dead orphans."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_only_what_changed_runs(toy, server, monkeypatch):
    ran = dict.fromkeys(["first", "middle@x", "middle@y", "last"], "Completed")
    assert run_pipeline() == ran | {"trained": "Verified"}
    order = Path("runs.txt").read_text().split()
    assert order[0] == "first" and order[-1] == "last" and sorted(order[1:3]) == ["x", "y"]
    assert Path("last").read_text() == "lastxfirst1yfirst2"

    with monkeypatch.context() as patch:
        patch.setattr(stages, "start", lambda command: pytest.fail(f"{command} for an unchanged stage"))
        assert set(run_pipeline().values()) == {"Skipped"}

    Path("y.txt").write_text("3")
    changed = {"first": "Skipped", "middle@x": "Skipped", "middle@y": "Completed", "last": "Completed"}
    changed["trained"] = "Skipped"
    assert run_pipeline() == changed
    assert Path("last").read_text() == "lastxfirst1yfirst3"

    Path("x").unlink()
    restored = {"first": "Skipped", "middle@x": "Restored", "middle@y": "Skipped", "last": "Skipped"}
    restored["trained"] = "Skipped"
    assert run_pipeline() == restored
    assert Path("runs.txt").read_text().split()[4:] == ["y", "last"]


def test_nothing_follows_a_stage_that_failed(toy, server):
    Path("command.txt").write_text("x fails")
    flow = start_flow(server)
    output, _ = flow.communicate(timeout=120)
    assert flow.returncode == 1
    last = output[output.index("error: middle@x exited with") :]
    assert last.rstrip().endswith("error: no luck today")
    assert "Task run 'last' - Finished in state NotReady" in output
    assert "last" not in Path("runs.txt").read_text().split()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_flow(toy, server, sign):
    Path("command.txt").write_text("first sleeps")
    flow = start_flow(server)
    wait_for(Path("asleep").exists)
    children = psutil.Process(flow.pid).children(recursive=True)
    assert any("stage.py" in " ".join(child.cmdline()) for child in children)
    flow.send_signal(sign)
    flow.communicate(timeout=60)
    assert flow.returncode != 0
    wait_for(lambda: not any(lives(child) for child in children), seconds=30)

    Path("command.txt").write_text("")
    stages.check_project()
    assert stages.run_stage("first", None, print) == "Completed"  # what was killed left no lock behind


def test_a_stage_that_takes_too_long_is_killed(toy):
    Path("command.txt").write_text("first sleeps")
    with pytest.raises(stages.StageError, match=r"first did not end in 6 s and was stopped"):
        stages.run_stage("first", 6, print)
    assert not stages.LIVE
    assert not any(
        str(toy) == p.info["cwd"] for p in psutil.process_iter(["cwd", "pid"]) if p.pid != os.getpid()
    )


def test_nothing_starts_once_the_flow_stops():
    stages.stop_all()
    with pytest.raises(stages.StageError, match="stopping"):
        stages.start([sys.executable, "-c", "pass"])


def test_a_progress_bar_is_thinned_and_of_other_lines_only_the_advice_of_dvc_is_left_out():
    raw = b"one\n\n\r 1%\r 2%\r 3%\r 4%\ntwo\r\n\tgit add dvc.lock\nUse `dvc push` to send\nthree\n"
    stream = io.TextIOWrapper(io.BytesIO(raw))
    assert list(stages.lines(stream)) == ["one", "1%", "4%", "two", "three"]


def test_a_lock_goes_with_its_owner(tmp_path):
    lock = tmp_path / "rwlock"
    lock.write_text(json.dumps({"read": {"a": [{"pid": os.getpid(), "cmd": "dvc repro"}]}, "write": {}}))
    stages.drop_stale_lock(lock)
    assert lock.exists()
    os.utime(lock, (0, 0))  # written before this process began: the id once belonged to another
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
    assert results_table({"systems": ["text", "base", "rba"], "scores": rows}) == (
        "| system | qa accuracy |\n| --- | --- |\n| text | 0.344 (0.200 to 0.400), n 90 |\n| base |  |\n| rba | - |"
    )


def test_a_lock_goes_with_an_owner_that_nobody_collected(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE)
    lock = tmp_path / "rwlock"
    lock.write_text(json.dumps({"write": {"a": {"pid": dead.pid, "cmd": "dvc repro"}}}))
    stages.drop_stale_lock(lock)
    assert not lock.exists()
    dead.wait()


def refusal(url: str, auth: str = "", module: str = "flows.pipeline") -> str:
    """The one line that a command ends with, which the server at `url` does not let in."""
    env = os.environ | {"PREFECT_API_URL": url, "PYTHONPATH": PROJECT, "PREFECT_API_AUTH_STRING": auth}
    command = [sys.executable, "-m", module, "work/clone"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: Prefect at {url}: "), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("module", "url"),
    [
        ("flows.pipeline", "http://127.0.0.1:9/api"),
        ("flows.pipeline", "127.0.0.1:4200/api"),
        ("flows.deployment", "http://host.invalid/api"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(toy, module, url):
    assert "set PREFECT_API_URL to http://HOST:PORT/api" in refusal(url, module=module)


def test_a_wrong_password_is_one_line(toy, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("guarded")
    monkeypatch.setenv("PREFECT_HOME", str(home))
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "operator:right")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}):
        url = serve()
    for auth in ("", "operator:wrong"):
        assert "set PREFECT_API_AUTH_STRING to USER:PASSWORD" in refusal(url, auth)


def test_a_graph_that_dvc_cannot_read_is_the_runs_one_line(toy, server):
    Path("dvc.yaml").write_text("stages: {first: {cmd: 1}}")
    flow = start_flow(server)
    output, _ = flow.communicate(timeout=120)
    assert flow.returncode == 1 and "Traceback" not in output
    assert output.splitlines()[-1].startswith("error: DVC cannot read the pipeline: ")
