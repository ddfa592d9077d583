"""The output of `make run`: a live table in a terminal, else a line at the start and end of each stage.

Everything else that the process prints goes to a log file.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.progress import PROGRESS, StageProgress, clock, names

LOG = Path("work/logs/run.log")
POLL_S = 0.2
UNCHANGED = ("Skipped", "Verified")
STYLES = {
    "Waiting": "dim",
    "Running": "bold cyan",
    "Completed": "green",
    "Restored": "green",
    "Failed": "red",
}


@contextmanager
def show_progress() -> Iterator[None]:
    """The terminal shows PROGRESS meanwhile; stderr, where Prefect logs, is LOG."""
    with stderr_in(LOG):
        if sys.stdout.isatty():
            with Live(get_renderable=live_view, console=Console(), refresh_per_second=2):
                yield
        else:
            with plain_lines():
                yield


@contextmanager
def stderr_in(log: Path) -> Iterator[None]:
    """The file takes the stderr of this process and its children meanwhile: logs, warnings and tracebacks."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


def live_view() -> RenderableType:
    """One row for each stage that has to run, one line for the unchanged stages, and the time."""
    stages = dict(PROGRESS.stages)
    if not stages:
        return Text("reading the graph of stages ...", style="dim")
    table = Table.grid(padding=(0, 2))
    for options in ({}, {}, {"justify": "right"}, {}):
        table.add_column(no_wrap=True, overflow="ellipsis", **options)  # type: ignore[arg-type]  # a str each
    for name, stage in stages.items():
        if stage.state not in UNCHANGED:
            style = STYLES[stage.state]
            table.add_row(*(Text(cell, style=style) for cell in row(name, stage)))
    unchanged = [name for name, stage in stages.items() if stage.state in UNCHANGED]
    folded = Text(f"unchanged: {names(unchanged)}", style="dim")
    return Group(folded, table, Text(footer(), style="dim")) if unchanged else Group(table, Text(footer()))


def row(name: str, stage: StageProgress) -> tuple[str, str, str, str]:
    """Name, state, times and the newest line of output of a stage."""
    if stage.state == "Waiting":
        last = f"last time {clock(stage.last_s)}" if stage.last_s else ""
        return name, "waiting", "", last
    if stage.state != "Running":
        return name, "done" if stage.state == "Completed" else stage.state.lower(), clock(stage.seconds), ""
    left = f" (~{clock(stage.left_s())} left)" if stage.left_s() is not None else ""
    return name, "running", clock(stage.elapsed_s()) + left, stage.line


def footer() -> str:
    left = PROGRESS.left_s()
    known = f", at least {clock(left)} left by the times of the last run" if left else ""
    return f"{clock(PROGRESS.elapsed_s())} elapsed{known}; log: {LOG}"


@contextmanager
def plain_lines() -> Iterator[None]:
    """A thread prints one line when a stage starts and one when it ends."""
    ended = threading.Event()
    printed: dict[str, str] = {}

    def follow() -> None:
        while not ended.wait(POLL_S):
            print_changes(printed)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        print_changes(printed)


def print_changes(printed: dict[str, str]) -> None:
    """Prints each stage whose state is not the printed one."""
    for name, stage in list(PROGRESS.stages.items()):
        if stage.state in ("Waiting", printed.get(name)):
            continue
        printed[name] = stage.state
        took = f" in {clock(stage.seconds)}" if stage.state in ("Completed", "Failed") else ""
        print(f"{name}: {stage.state.lower()}{took}", flush=True)
