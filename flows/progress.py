"""What each stage of the running flow does now, and when each stage last ran.

The flow writes, the terminal (flows/terminal.py) reads; both are in one process.
"""

import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

TIMES = Path("work/stage_times.json")
WRITING = threading.Lock()


@dataclass
class LastRun:
    """When a stage last ran to its end, in ISO format, and how long it took."""

    ended: str
    seconds: float


@dataclass
class StageProgress:
    """A stage of the running flow; `state` is Waiting, Running, Failed or a key of pipeline.MEANING."""

    waits_for: list[str]
    last_s: float | None  # of its last run
    state: str = "Waiting"
    line: str = ""  # the newest of its output
    started: float = 0.0
    seconds: float = 0.0  # how long it took, once it ended

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started if self.state == "Running" else self.seconds

    def left_s(self) -> float | None:
        """The time left by that of the last run; None where there is none or it is used up."""
        if self.last_s is None or self.last_s <= self.elapsed_s():
            return None
        return self.last_s - self.elapsed_s()


@dataclass
class Progress:
    """The stages of the running flow by name, in the order of the graph; empty before it read the graph."""

    stages: dict[str, StageProgress] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def begin(self, waits_for: dict[str, list[str]]) -> None:
        times = read_times()
        self.started = time.monotonic()
        self.stages = {
            name: StageProgress(earlier, times[name].seconds if name in times else None)
            for name, earlier in waits_for.items()
        }

    def start(self, name: str) -> StageProgress:
        stage = self.stages.setdefault(name, StageProgress([], None))
        stage.state, stage.started = "Running", time.monotonic()
        return stage

    def end(self, name: str, state: str) -> None:
        """The stage is in its last state; the time of one that ran is kept for the next run."""
        stage = self.stages[name]
        stage.seconds, stage.state = stage.elapsed_s(), state
        if state == "Completed":
            record_time(name, stage.seconds)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def left_s(self) -> float | None:
        """The least time left: the longest chain of stages to come; None where a last time is missing."""
        finish: dict[str, float] = {}
        for name, stage in self.stages.items():
            left = stage.left_s() if stage.state in ("Waiting", "Running") else 0.0
            if left is None:
                return None
            finish[name] = left + max((finish[earlier] for earlier in stage.waits_for), default=0.0)
        return max(finish.values(), default=None)


PROGRESS = Progress()  # of the flow in this process


def read_times() -> dict[str, LastRun]:
    """The last run of each stage that ran here; empty where none did."""
    if not TIMES.exists():
        return {}
    return {name: LastRun(**last) for name, last in json.loads(TIMES.read_text()).items()}


def record_time(name: str, seconds: float) -> None:
    """TIMES holds this run of the stage, which ends now."""
    with WRITING:
        times = {stage: vars(last) for stage, last in read_times().items()}
        times[name] = vars(LastRun(datetime.now().isoformat(timespec="seconds"), round(seconds, 1)))
        TIMES.parent.mkdir(parents=True, exist_ok=True)
        new = TIMES.with_suffix(".new")
        new.write_text(json.dumps(times, indent=1))
        os.replace(new, TIMES)


def clock(seconds: float | None) -> str:
    """Minutes and seconds, with hours from an hour on; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def names(stages: Iterable[str]) -> str:
    return ", ".join(stages) or "-"
