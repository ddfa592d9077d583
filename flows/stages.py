"""DVC's side of the flow: which stages there are, which of them changed, and one process a stage."""

import ctypes
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
from typing import IO

import psutil

from speech_rba.errors import UserError

LIVE: set[subprocess.Popen] = set()  # leaders of the process groups that run now
GATE = threading.Lock()  # held while a process starts, so that stop_all misses none
CLOSED = threading.Event()  # set: nothing starts any more
GRACE_S = 5
PROGRESS_S = 5  # a progress bar rewrites its line ten times a second
DVC_FAILED = "ERROR: failed to reproduce"  # only says again that the stage failed
ADVICE = (  # of DVC after every stage, for a person who starts each by hand
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
    """Holds when stages can run here; a lock that a dead DVC process left behind is gone.

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
    asked = subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, text=True, check=False)
    if asked.returncode:  # its folder has another owner, say
        raise UserError(f"git does not read {Path.cwd()}: {' '.join(asked.stderr.split())}")
    drop_stale_lock(Path(".dvc/tmp/rwlock"))


def drop_stale_lock(path: Path) -> None:
    """The lock file is gone if none of its owners lives.

    DVC drops owners whose process id is free. In a container the ids soon belong to others: an owner that
    started after the file was last written is one of those. And where nobody collects orphans, a dead one keeps its id.
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
    """The stages that each stage comes after, in an order to run them, and the stages that surely did not change.

    Those match dvc.lock together with all that comes before them. Call it from the main thread: DVC's API is
    not safe in threads.

    Raises:
        UserError: dvc.yaml is wrong, or another DVC process is at work.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            graph = repo.index.graph  # its edges point from a stage to what it needs
            order = [stage.addressing for stage in networkx.dfs_postorder_nodes(graph)]
            before = {
                stage.addressing: [need.addressing for need in graph.successors(stage)] for stage in graph
            }
            changed = set(repo.status())
    except DvcException as error:
        raise UserError(f"DVC cannot read the pipeline: {' '.join(str(error).split())}") from error
    settled: set[str] = set()
    for name in order:
        if name not in changed and settled.issuperset(before[name]):
            settled.add(name)
    return {name: before[name] for name in order}, settled


def run_stage(name: str, timeout_s: float | None, log: Callable[[str], None]) -> str:
    """What DVC did with the stage: "Completed" (it ran), "Restored", "Skipped" or "Verified", as in pipeline.MEANING.

    Raises:
        StageError: it failed, or did not end in `timeout_s` seconds and was killed.
    """
    process = start([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name])
    timer = threading.Timer(timeout_s or threading.TIMEOUT_MAX, stop, [process])
    timer.start()
    last, outcome, began = deque(maxlen=8), "Completed", time.monotonic()
    try:
        for line in lines(process.stdout):
            log(line)
            last.append(line)
            if line.endswith("didn't change, skipping"):
                outcome = "Skipped"
            elif line.endswith("is cached - skipping run, checking out outputs"):
                outcome = "Restored"
            elif line.startswith("Verifying outputs in frozen stage"):
                outcome = "Verified"
        code = process.wait()
    finally:
        timer.cancel()
        stop(process)
        LIVE.discard(process)
    if code and timeout_s and time.monotonic() - began >= timeout_s:
        raise StageError(
            f"{name} did not end in {timeout_s:g} s and was stopped; give the flow a larger timeout_s"
        )
    if code:
        own = [line for line in last if not line.startswith(f"{DVC_FAILED} '{name}': failed to run:")]
        raise StageError("\n".join([f"{name} exited with {code}:", *own]))
    return outcome


def start(command: list[str]) -> subprocess.Popen:
    """A process in a group of its own, in LIVE, with stdout and stderr in one pipe.

    It is killed if this process is killed; a stage in turn dies with its DVC process.
    """
    env = (
        os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `python` is ours in every stage
            "PYTHONUNBUFFERED": "1",
        }
    )
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


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a stream that are not empty nor ADVICE, of a progress bar one every few seconds."""
    stream.reconfigure(newline="")  # keeps \r apart from \n
    shown = -PROGRESS_S
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

    SIGINT comes first: DVC leaves it to its stage, which then closes its run. SIGTERM would end DVC at once and
    take the stage with it.
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
    """Whether the group has anyone left to get the signal; 0 only asks."""
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
