"""Processes that are kept alive, on tiny ones."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows import services
from flows.services import Service
from speech_rba.errors import UserError

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped")))
print("up", flush=True)
time.sleep(60)
"""


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def service(tmp_path) -> Service:
    made = Service("toy", [sys.executable, "-c", PARENT], {}, "", tmp_path / "logs/toy.log")
    made.start()
    wait_for(made.log.read_text)
    yield made
    made.stop()
    for pid in map(int, made.log.read_text().split()):
        if lives(pid):
            psutil.Process(pid).kill()


def test_a_killed_process_takes_its_children_with_it_and_starts_again(service, monkeypatch, capsys):
    """As MLflow's command and its uvicorn, which would keep the port."""
    first, child = service.process, int(service.log.read_text())
    first.kill()
    first.wait()
    assert lives(child)
    service.keep_alive()
    wait_for(lambda: not lives(child))
    assert capsys.readouterr().out == "toy ended with -9, starts again in 1 s\n"
    service.keep_alive()
    assert service.process is first  # the pause is not over
    service.not_before = time.monotonic()
    service.keep_alive()
    assert service.process.pid != first.pid and service.process.poll() is None


def test_the_pause_grows_with_each_death(service):
    for deaths, pause in ((1, 1), (2, 2), (3, 4), (7, 30)):
        service.deaths, before = deaths - 1, time.monotonic()
        service.plan_restart(service.process)
        assert service.not_before - before == pytest.approx(pause, abs=0.5)


def test_a_silent_server_is_killed(service, monkeypatch):
    service.url = "http://127.0.0.1:9/health"
    monkeypatch.setattr(services, "PATIENCE_S", 0)
    monkeypatch.setattr(services, "ASK_S", 0)
    service.keep_alive()
    assert service.process.wait(10) == -signal.SIGKILL


def test_a_server_that_dies_at_its_start_names_its_log(tmp_path):
    made = Service("toy", [sys.executable, "-c", "1/0"], {}, "http://127.0.0.1:9", tmp_path / "toy.log")
    with pytest.raises(UserError, match=rf"toy did not start, see {tmp_path}/toy\.log"):
        made.wait(made.start())
    assert "ZeroDivisionError" in made.log.read_text()


def test_a_service_gets_its_signal_when_the_supervisor_is_killed(tmp_path):
    """MLflow's command gets SIGTERM, which it passes on to its uvicorn."""
    code = f"""
import signal, sys, time, pathlib
from flows.services import Service
Service("toy", [sys.executable, "-c", {CHILD!r}], {{}}, "", pathlib.Path("toy.log"), signal.SIGTERM).start()
time.sleep(60)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    log = tmp_path / "toy.log"
    wait_for(lambda: log.exists() and "up" in log.read_text())
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: log.read_text() == "up\nstopped\n")
