"""`make up` for real: both servers, a worker, scheduled and killed runs, in a project of two tiny stages.

The folder's name has blanks, the machine knows no git identity, and its proxy answers nobody.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from flows import reaper, supervisor
from flows.reaper import Reaper
from speech_rba.errors import UserError
from tests.browser import chromium

ROOT = Path(__file__).parents[2]
DEAD_PROXY = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY")
STAGE = """
import ctypes, pathlib, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # as every stage
name, *deps = sys.argv[1:]
with open(pathlib.Path(__file__).parent / "../../runs.txt", "a") as runs:
    runs.write(name + "\\n")
sleeps = pathlib.Path(__file__).parent / "../../sleep.txt"
while sleeps.exists():
    sleeps.with_name("asleep.txt").touch()
    time.sleep(0.1)
pathlib.Path(name).write_text(name + "".join(pathlib.Path(d).read_text() for d in deps))
"""
DVC_YAML = """
stages:
  first: {cmd: exec python stage.py first params.yaml, deps: [stage.py], params: [synthesize], outs: [first]}
  last: {cmd: exec python stage.py last first, deps: [first], outs: [last]}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "it's a (pröject)"
    for name in ("flows", "src"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    files = {"dvc.yaml": DVC_YAML, "stage.py": STAGE, "params.yaml": (ROOT / "params.yaml").read_text()}
    files[".gitignore"] = "work\nmlruns\n__pycache__\n*.txt\n/first\n/last\n"
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "init", "-q", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "Begin")
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


class Up:
    """`make up` in a project, its processes by name, and its Prefect API."""

    def __init__(self, project: Path):
        self.project, ports = project, [free_port(), free_port()]
        command = [sys.executable, "-m", "flows.supervisor"]
        command += ["--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1])]
        with open(project / "up.txt", "w") as output:
            options = {
                "cwd": project,
                "env": environment(project),
                "stdout": output,
                "stderr": subprocess.STDOUT,
            }
            self.process = subprocess.Popen(command, **options)
        self.mlflow, self.prefect = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        self.api = Reaper(f"{self.prefect}/api", "", "local")
        wait_for(lambda: "Stop:" in self.output(), 180, self.output)
        self.deployment = json.loads(get(f"{self.prefect}/api/deployments/name/nightly/nightly"))["id"]

    def output(self) -> str:
        assert self.process.poll() in (None, 0), (self.project / "up.txt").read_text()
        return (self.project / "up.txt").read_text()

    def post(self, path: str, body: dict | list) -> list | dict:
        return retry_while_busy(lambda: self.api.post(path, body))

    def child(self, word: str) -> psutil.Process:
        """The newest direct child whose command holds `word`."""
        children = psutil.Process(self.process.pid).children()
        return max((c for c in children if word in " ".join(c.cmdline())), key=lambda c: c.create_time())

    def descendant(self, word: str) -> psutil.Process:
        """The newest process below whose command holds `word`."""
        return max((p for p in self.everyone() if word in command_of(p)), key=lambda p: p.create_time())

    def start_run(self, **parameters) -> str:
        path = f"/deployments/{self.deployment}/create_flow_run"
        return self.post(path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"]

    def state(self, run_id: str) -> dict:
        return json.loads(get(f"{self.prefect}/api/flow_runs/{run_id}"))["state"]

    def wait_for_end(self, run_id: str) -> dict:
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.state(run_id)["type"] in ended, 120, lambda: self.state(run_id))
        return self.state(run_id)

    def start_sleeping_run(self, **parameters) -> str:
        """A run whose first stage sleeps until `wake`."""
        (self.project / "sleep.txt").touch()
        run_id = self.start_run(**parameters)
        wait_for((self.project / "asleep.txt").exists, 120, lambda: self.state(run_id))
        return run_id

    def wake(self) -> None:
        for name in ("sleep.txt", "asleep.txt"):
            (self.project / name).unlink()

    def everyone(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def environment(project: Path) -> dict[str, str]:
    """That of a machine with a proxy that is down, without git settings and $SHELL."""
    dropped = ("shell", "prefect_api_url", "mlflow_tracking_uri", "no_proxy")
    env = {name: value for name, value in os.environ.items() if name.lower() not in dropped}
    env |= {"PYTHONPATH": f"{project}/src:{project}", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    return env | dict.fromkeys(PROXIES, DEAD_PROXY)


def retry_while_busy(call: Callable):
    """The result of `call`, called again while the server's database is busy (503)."""
    for _ in range(30):
        try:
            return call()
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(1)
    raise AssertionError("the server stayed busy")


def get(url: str, method: str = "GET") -> bytes:
    def once() -> bytes:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as reply:
            return reply.read()

    return retry_while_busy(once)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def wait_for(condition, seconds, complaint=lambda: "waited in vain"):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.1)


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runs(project: Path) -> list[str]:
    return (project / "runs.txt").read_text().split()


@pytest.fixture(scope="module")
def up(project):
    up = Up(project)
    yield up
    if up.process.poll() is None:
        everyone = up.everyone()
        up.process.terminate()
        up.process.wait(60)
        wait_for(lambda: all(gone(p) for p in everyone), 15, lambda: [p for p in everyone if not gone(p)])


@pytest.fixture(scope="module")
def seeded_run(up) -> str:
    """The id of a run with the seed 7 that has ended."""
    run_id = up.start_run(seed=7)
    up.wait_for_end(run_id)
    return run_id


def test_a_run_leaves_a_commit_of_its_results(up, project, seeded_run):
    state = up.state(seeded_run)
    assert state["type"] == "COMPLETED", state["message"]
    assert runs(project) == ["first", "last"]
    assert "seed: 7" in git(project, "show", "nightly:params.yaml")
    result = (project / "work/nightly/last").read_text()
    assert result.startswith("lastfirst# The only place") and "\n  seed: 7\n" in result
    commit = git(project, "rev-parse", "nightly").strip()
    assert state["message"].startswith(f"commit {commit[:12]}")


def test_a_schedule_starts_a_run_that_computes_nothing_and_is_kept_by_another_deploy(up, project, seeded_run):
    commit = git(project, "rev-parse", "nightly").strip()
    soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    path = f"/deployments/{up.deployment}/schedules"
    up.post(path, [{"schedule": {"interval": 86_400, "anchor_date": soon}, "active": True}])
    deploy(up, project, "local")
    [kept] = json.loads(get(f"{up.prefect}/api{path}"))
    assert kept["active"] and kept["schedule"]["interval"] == 86_400
    scheduled = {"deployment_id": {"any_": [up.deployment]}, "tags": {"all_": ["auto-scheduled"]}}
    ended = {"flow_runs": scheduled | {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    wait_for(lambda: up.post("/flow_runs/filter", ended), 120)
    [run] = up.post("/flow_runs/filter", ended)
    assert run["state"]["message"] == f"commit {commit[:12]}; first: Skipped, last: Skipped"
    assert git(project, "rev-parse", "nightly").strip() == commit
    get(f"{up.prefect}/api{path}/{kept['id']}", "DELETE")


@pytest.fixture
def page():
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        yield page


def click_until(page: Page, done: Callable[[], bool], *names: str) -> None:
    """Clicks the first button of these names that is visible, again after ten seconds without effect.

    A page that still loads may miss a click, and a busy server may refuse a form.
    """
    clicked, deadline = 0.0, time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline, f"no effect of clicking {names}: {page.inner_text('body')}"
        buttons = [page.get_by_role("button", name=name, exact=True) for name in names]
        visible = [button.last for button in buttons if button.count() and button.last.is_visible()]
        if visible and time.monotonic() > clicked + 10:
            visible[0].click()
            clicked = time.monotonic()
        page.wait_for_timeout(200)


def test_a_person_sees_a_run_and_schedules_the_next_by_clicking(up, seeded_run, page):
    page.goto(f"{up.prefect}/runs/flow-run/{seeded_run}")
    expect(page.get_by_text("Completed").first).to_be_visible(timeout=60_000)
    page.get_by_text("Artifacts", exact=True).first.click()
    expect(page.get_by_text("commit", exact=True).first).to_be_visible(timeout=60_000)
    page.get_by_text("Subflow Runs", exact=True).first.click()
    expect(page.get_by_text("pipeline").first).to_be_visible(timeout=60_000)
    schedules = f"{up.prefect}/api/deployments/{up.deployment}/schedules"
    assert json.loads(get(schedules)) == []
    page.goto(f"{up.prefect}/deployments/deployment/{up.deployment}")
    save = page.get_by_role("button", name="Save", exact=True)
    click_until(page, lambda: save.count() > 0, "Schedule")
    click_until(page, lambda: json.loads(get(schedules)) != [], "Save", "Schedule")
    page.goto(f"{up.mlflow}/#/models")
    expect(page.get_by_text("Registered Models").first).to_be_visible(timeout=60_000)
    [schedule] = json.loads(get(schedules))
    assert schedule["active"] and schedule["schedule"]["interval"] == 3600
    get(f"{schedules}/{schedule['id']}", "DELETE")


def deploy(up: Up, project: Path, pool: str) -> dict[str, str]:
    """The environment of a client, after the deployment was made for the pool."""
    env = os.environ | {"PREFECT_API_URL": f"{up.prefect}/api", "PYTHONPATH": f"{project}/src:{project}"}
    env |= {"SPEECH_RBA_POOL": pool, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = [sys.executable, "-m", "flows.deployment", "work/nightly"]
    subprocess.run(command, cwd=project, env=env, check=True)
    return env


@pytest.mark.faults
def test_a_worker_of_another_pool_runs_nightly_and_a_pool_reaps_its_own_runs_alone(up, project):
    try:
        deploy(up, project, "third")
        path = f"/deployments/{up.deployment}/create_flow_run"
        lost = up.post(path, {"state": {"type": "PENDING"}})["id"]
        for pool, state in (("gpu", "PENDING"), ("third", "CRASHED")):
            pool_reaper = Reaper(up.api.api, "", pool)
            for _ in range(2):
                retry_while_busy(pool_reaper.reap)
            assert up.state(lost)["type"] == state
        env = deploy(up, project, "gpu")
        worker = subprocess.Popen([sys.executable, "-m", "flows.worker", "gpu"], cwd=project, env=env)
        assert up.wait_for_end(up.start_run())["type"] == "COMPLETED"
        everyone = psutil.Process(worker.pid).children(recursive=True)
        assert everyone
        worker.terminate()
        worker.wait(30)
        wait_for(lambda: all(gone(p) for p in everyone), 5)
    finally:
        deploy(up, project, "local")


def flow_processes(up: Up) -> list[psutil.Process]:
    """The process of the running flow and all below it."""
    return [p for p in up.child("worker").children(recursive=True) if "PREFECT__FLOW_RUN_ID" in p.environ()]


@pytest.mark.faults
@pytest.mark.parametrize(
    "victims", [["stage.py"], ["dvc"], ["prefect.engine"], ["worker"], ["worker", "prefect.engine"]]
)
def test_after_any_process_is_killed_the_next_run_goes_on(up, project, victims):
    seed = 20 + sum(map(ord, "".join(victims)))
    run_id = up.start_sleeping_run(seed=seed)
    everyone = [up.child("worker"), *flow_processes(up)]
    killed = [next(p for p in everyone if word in " ".join(p.cmdline())) for word in victims]
    below = [child for process in killed for child in process.children(recursive=True)]
    for process in killed:
        process.kill()
    wait_for(
        lambda: all(gone(p) for p in killed + below), 5, lambda: [p for p in killed + below if not gone(p)]
    )
    up.wake()
    assert up.wait_for_end(run_id)["type"] in ("FAILED", "CRASHED")
    before = len(runs(project))
    assert up.wait_for_end(up.start_run(seed=seed))["type"] == "COMPLETED"
    assert runs(project)[before:] == ["first", "last"]


@pytest.mark.faults
def test_a_cancelled_run_leaves_no_process(up, project):
    run_id = up.start_sleeping_run(seed=31)
    at_work = flow_processes(up)
    up.post(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    assert up.wait_for_end(run_id)["type"] == "CANCELLED"
    wait_for(lambda: all(gone(p) for p in at_work), 15, lambda: [p for p in at_work if not gone(p)])
    up.wake()
    assert up.wait_for_end(up.start_run())["type"] == "COMPLETED"


@pytest.mark.faults
def test_of_two_runs_the_second_waits(up, project):
    first = up.start_sleeping_run(seed=32)
    second = up.start_run()
    before = len(runs(project))
    time.sleep(5)
    assert up.state(second)["type"] in ("SCHEDULED", "PENDING") and len(runs(project)) == before
    up.wake()
    assert [up.wait_for_end(run)["type"] for run in (first, second)] == ["COMPLETED"] * 2
    assert runs(project)[before:] == ["last"]


@pytest.mark.faults
@pytest.mark.parametrize("name", ["mlflow_server", "mlflow.server.fastapi_app", "prefect_server"])
def test_a_server_that_is_killed_under_a_run_comes_back_and_the_run_ends_well(up, name):
    run_id = up.start_sleeping_run(seed=100 + len(name))
    killed = up.descendant(name)
    killed.kill()
    url = up.mlflow + "/health" if name.startswith("mlflow") else up.prefect + "/api/health"
    wait_for(lambda: gone(killed), 10)

    def back() -> bool:
        try:
            return up.descendant(name).pid != killed.pid and bool(get(url))
        except (OSError, ValueError):  # no answer, no process
            return False

    wait_for(back, 90)
    up.wake()
    assert up.wait_for_end(run_id)["type"] == "COMPLETED"


@pytest.mark.faults
def test_a_locked_database_is_waited_for(up, project):
    run_id = up.start_sleeping_run(seed=33)
    other = sqlite3.connect(project / "work/servers/prefect/prefect.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    up.wake()
    time.sleep(20)
    other.rollback()
    other.close()
    assert up.wait_for_end(run_id)["type"] == "COMPLETED"


def test_the_reaper_asks_prefect_only_after_a_process_came_or_went(monkeypatch):
    requests: list[str] = []
    running: list[str] = []
    errors = [OSError("the server starts")]

    def post(self, path, body):
        if errors:
            raise errors.pop()
        requests.append(path)
        open_run = {"id": "r", "name": "n", "state": {"type": "RUNNING"}}
        return [open_run] if path == "/flow_runs/filter" and "parent" not in str(body) else []

    monkeypatch.setattr(reaper, "running_flows", lambda: running)
    monkeypatch.setattr(Reaper, "post", post)
    looker = Reaper("", "", "local")
    running[:] = ["r"]
    with pytest.raises(OSError):
        looker.reap()
    looks = []
    for alive in (["r"], ["r"], ["r"], [], []):
        running[:], before = alive, len(requests)
        looker.reap()
        looks.append(requests[before:])
    assert looks[:4] == [["/flow_runs/filter"], [], [], ["/flow_runs/filter"]]  # the last look misses it once
    assert looks[4][-1] == "/flow_runs/r/set_state"  # missed twice: it is closed


def test_servers_listen_on_loopback_alone(up):
    listening = [c for p in up.everyone() for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.port for c in listening} >= {int(u.rsplit(":")[-1]) for u in (up.mlflow, up.prefect)}
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_pages_of_other_origins_may_not_ask(up):
    headers = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    request = urllib.request.Request(f"{up.prefect}/api/flow_runs/filter", headers=headers, method="OPTIONS")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    request = urllib.request.Request(
        f"{up.mlflow}/api/2.0/mlflow/experiments/search", b"{}", {"Host": "elsewhere"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


@pytest.mark.faults
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_supervisor(up, project, signal_number):
    if up.process.poll() is not None:
        up.__init__(project)
    up.start_sleeping_run(seed=5000 + signal_number)  # a seed that no other test has made data for
    everyone = up.everyone()
    up.process.send_signal(signal_number)
    up.process.wait(60)
    wait_for(lambda: all(gone(p) for p in everyone), 15, lambda: [p for p in everyone if not gone(p)])
    up.wake()


@pytest.mark.faults
def test_a_renamed_project_runs_under_its_new_name(up, project):
    if up.process.poll() is None:
        up.process.terminate()
        up.process.wait(60)
    before, renamed = up.deployment, project.rename(project.with_name("another name"))
    up.__init__(renamed)
    assert up.deployment == before
    state = up.wait_for_end(up.start_run(seed=41))
    assert state["type"] == "COMPLETED", state["message"]
    commit = git(renamed, "rev-parse", "nightly").strip()
    assert state["message"].startswith(f"commit {commit[:12]}")
    assert "seed: 41" in git(renamed, "show", "nightly:params.yaml")


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"port {port} of 127.0.0.1 cannot be used \(.*\): stop"
        ) as caught:
            supervisor.check_port(port, "--mlflow-port")
    assert f"make up ARGS='--mlflow-port {port + 1}'" in str(caught.value) and "\n" not in str(caught.value)
    supervisor.check_port(port, "--mlflow-port")  # it is free again
