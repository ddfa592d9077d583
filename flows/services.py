"""A process that is kept alive, and whether it answers.

Kept alive by this code and not by systemd or Docker: `make up` works for a user without root on a fresh
machine, where neither is there to be used. docs/operate.md says how Docker does the same.
"""

import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.stages import die_with_parent, signal_group
from speech_rba.errors import UserError

START_S = 90  # for a server's first answer, on a busy machine
ASK_S = 15  # between two health checks; the death of a process is seen at once
PATIENCE_S = 60  # a server that is silent for longer is started again
STOP_S = 15
LONGEST_WAIT_S = 30  # between two starts of a process that dies again and again


@dataclass
class Service:
    """A process to keep alive; `url` is its health check, empty for the worker, which has none."""

    name: str
    command: list[str]
    env: dict[str, str]
    url: str
    log: Path
    parent_death: signal.Signals = signal.SIGKILL  # what it gets when the supervisor dies
    process: subprocess.Popen | None = None
    deaths: int = 0
    answered: float = 0.0  # time of the last answer
    not_before: float = 0.0  # time of the next start; 0 while it runs

    def start(self) -> subprocess.Popen:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops all in order
                preexec_fn=partial(die_with_parent, self.parent_death),
            )
        self.answered = time.monotonic()
        return self.process

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def wait(self, process: subprocess.Popen) -> None:
        """Holds when `process`, just started, answers.

        Raises:
            UserError: it died or stayed silent; the message names its log.
        """
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(0.2)
        raise UserError(f"{self.name} did not start, see {self.log}")

    def keep_alive(self) -> None:
        """The process runs, or starts again after a pause that grows with each death."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.kill_if_silent(self.process)
        elif not self.not_before:
            self.plan_restart(self.process)
        elif time.monotonic() >= self.not_before:
            self.not_before = 0.0
            self.start()

    def kill_if_silent(self, process: subprocess.Popen) -> None:
        """A server that has not answered for PATIENCE_S is killed."""
        silent_s = time.monotonic() - self.answered if self.url else 0
        if silent_s >= ASK_S and self.answers():
            self.answered = time.monotonic()
        elif silent_s > PATIENCE_S:
            signal_group(process, signal.SIGKILL)

    def plan_restart(self, process: subprocess.Popen) -> None:
        """Nothing of the dead process's group lives, and the time of the next start is set."""
        signal_group(process, signal.SIGKILL)  # a server's child would keep the port
        self.deaths += 1
        pause = min(2 ** (self.deaths - 1), LONGEST_WAIT_S)
        self.not_before = time.monotonic() + pause
        print(f"{self.name} ended with {process.returncode}, starts again in {pause} s", flush=True)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                signal_group(self.process, signal.SIGKILL)
                self.process.wait()
