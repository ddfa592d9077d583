"""The stages of dvc.yaml: their graph, which of them changed, and one DVC process for each that runs.

DVC runs as a command and not through its Python API: the API is not safe in
threads (two threads ran one stage at once).
"""

import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import psutil

from speech_rba.errors import UserError

LIVE: set[subprocess.Popen[str]] = set()  # leaders of the process groups that run now
GATE = threading.Lock()  # held while a process starts, so that stop_all misses none
CLOSED = threading.Event()  # set: nothing starts any more
GRACE_S = 5
PROGRESS_S = 5  # a progress bar rewrites its line ten times a second
DVC_FAILED = "ERROR: failed to reproduce"  # repeats that the stage failed, without a reason
ADVICE = (  # DVC prints it after every stage, for a person who starts each by hand
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
LIBC = ctypes.CDLL(None)


class StageError(Exception):
    """A stage ended badly; the message says how, with its last lines."""


def check_project() -> None:
    """Stages can run here, and no lock of a dead DVC process is left.

    Raises:
        UserError: there is no pipeline, no Git or no DVC repository; the message says what to do.
    """
    if shutil.which("git") is None:
        raise UserError("no `git` on the PATH: install it, the pipeline names the commit it ran from")
    for path, mend in {
        "dvc.yaml": "run from the project's top folder",
        ".git": "run: git init",
        ".dvc": "run: dvc init",
    }.items():
        if not Path(path).exists():
            raise UserError(f"no {path} in {Path.cwd()}; {mend}")
    done = subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, text=True, check=False)
    if done.returncode:  # e.g. the folder belongs to another user
        raise UserError(f"git does not read {Path.cwd()}: {' '.join(done.stderr.split())}")
    drop_stale_lock(Path(".dvc/tmp/rwlock"))


def drop_stale_lock(path: Path) -> None:
    """The lock file is gone if none of its owners lives.

    DVC drops owners whose process id is free. In a container ids are soon used again: a process that started
    after the file was last written is no owner. A zombie is none either: some containers collect no orphans.
    """
    if not path.exists():
        return
    lock = json.loads(path.read_text() or "{}")
    owners = [
        *lock.get("write", {}).values(),
        *(o for readers in lock.get("read", {}).values() for o in readers),
    ]
    for owner in owners:
        try:
            process = psutil.Process(owner["pid"])
            if process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= path.stat().st_mtime:
                return
        except psutil.NoSuchProcess:
            continue
    path.unlink()


def read_graph() -> tuple[dict[str, list[str]], set[str]]:
    """The stages that each stage waits for, in an order to run them, and the unchanged stages.

    A stage is unchanged where it and all stages before it match dvc.lock. Call this from the main thread:
    DVC's API is not safe in threads.

    Raises:
        UserError: dvc.yaml is wrong, or another DVC process is at work.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            graph = repo.index.graph  # its edges point from a stage to those it waits for
            order = [stage.addressing for stage in networkx.dfs_postorder_nodes(graph)]
            waits_for = {
                stage.addressing: [earlier.addressing for earlier in graph.successors(stage)]
                for stage in graph
            }
            changed = set(repo.status())
    except DvcException as error:
        raise UserError(f"DVC cannot read the pipeline: {' '.join(str(error).split())}") from error
    unchanged: set[str] = set()
    for name in order:
        if name not in changed and unchanged.issuperset(waits_for[name]):
            unchanged.add(name)
    return {name: waits_for[name] for name in order}, unchanged


def run_stage(name: str, timeout_s: float | None, log: Callable[[str], None]) -> str:
    """What DVC did with the stage, a key of pipeline.MEANING.

    Raises:
        StageError: it failed, or did not end in `timeout_s` seconds and was killed.
    """
    process = start([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name])
    timer = threading.Timer(timeout_s or threading.TIMEOUT_MAX, stop, [process])
    timer.start()
    last_lines: deque[str] = deque(maxlen=8)
    outcome, started = "Completed", time.monotonic()
    try:
        for line in lines(cast(io.TextIOWrapper, process.stdout)):
            log(line)
            last_lines.append(line)
            outcome = outcome_in(line) or outcome
        code = process.wait()
    finally:
        timer.cancel()
        stop(process)
        LIVE.discard(process)
    if code and timeout_s and time.monotonic() - started >= timeout_s:
        raise StageError(
            f"{name} did not end in {timeout_s:g} s and was stopped; give the flow a larger timeout_s"
        )
    if code:
        reasons = [
            line for line in last_lines if not line.startswith(f"{DVC_FAILED} '{name}': failed to run:")
        ]
        raise StageError("\n".join([f"{name} exited with {code}:", *reasons]))
    return outcome


def outcome_in(line: str) -> str | None:
    """The outcome that a line of DVC names, where the stage does not run."""
    if line.endswith("didn't change, skipping"):
        return "Skipped"
    if line.endswith("is cached - skipping run, checking out outputs"):
        return "Restored"
    return "Verified" if line.startswith("Verifying outputs in frozen stage") else None


def start(command: list[str]) -> subprocess.Popen[str]:
    """A process that leads a new group, in LIVE, with stdout and stderr in one pipe.

    It is killed if this process is killed; a stage in turn dies with its DVC process.
    """
    python_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for `python` in a stage
    env = os.environ | {"PATH": python_first, "PYTHONUNBUFFERED": "1"}
    with GATE:
        if CLOSED.is_set():
            raise StageError(f"the flow is stopping, not started: {' '.join(command)}")
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        LIVE.add(process)
    return process


def die_with_parent(death_signal: signal.Signals = signal.SIGKILL) -> None:
    """This process gets the signal when its parent dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, death_signal)


def lines(stream: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a stream that are neither empty nor ADVICE, of a progress bar one every few seconds."""
    stream.reconfigure(newline="")  # keeps \r apart from \n
    shown = float("-inf")
    for line in stream:
        text = line.strip()
        bar = line.endswith("\r")
        if not text or text.startswith(ADVICE) or (bar and time.monotonic() - shown < PROGRESS_S):
            continue
        if bar:
            shown = time.monotonic()
        yield text


def stop(process: subprocess.Popen) -> None:
    """No process of the group lives.

    SIGINT comes first: DVC leaves it to its stage, which then closes its run. SIGTERM would end DVC at once,
    and the stage with it.
    """
    for sign in (signal.SIGINT, signal.SIGKILL):
        if not signal_group(process, sign):
            return
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            if not signal_group(process, 0):
                return
            time.sleep(0.05)


def signal_group(process: subprocess.Popen, sign: int) -> bool:
    """Whether a process of the group was left to get the signal; the signal 0 does nothing."""
    process.poll()  # else its leader stays in it as a zombie
    try:
        os.killpg(process.pid, sign)
    except ProcessLookupError:
        return False
    return True


def stop_all() -> None:
    """No process that `run_stage` started lives, and none will start."""
    with GATE:
        CLOSED.set()
    for process in list(LIVE):
        stop(process)
