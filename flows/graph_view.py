"""`speech-rba stages`: the graph of stages, in an order to run them."""

import sys

from rich.console import Console
from rich.table import Table

from flows.progress import clock, names, read_times
from flows.stages import check_project, read_graph
from speech_rba.errors import UserError


def print_stages() -> None:
    """Prints each stage with when it last ran and for how long, whether it would run, and what it waits for.

    Raises:
        UserError: there is no pipeline here, or DVC cannot read it.
    """
    check_project()
    waits_for, unchanged = read_graph()
    times = read_times()
    table = Table("stage", "last run", "took", "next run", "waits for")
    for name, earlier in nearest(waits_for).items():
        last = times.get(name)
        ended, took = (last.ended.replace("T", " "), clock(last.seconds)) if last else ("-", "-")
        table.add_row(name, ended, took, "unchanged" if name in unchanged else "runs", names(earlier))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def nearest(waits_for: dict[str, list[str]]) -> dict[str, list[str]]:
    """For each stage those that it waits for, without those that they wait for; `waits_for` is in running
    order."""
    before: dict[str, set[str]] = {}  # all stages before each stage
    reduced = {}
    for name, earlier in waits_for.items():
        implied = set().union(*(before[other] for other in earlier))
        reduced[name] = [other for other in earlier if other not in implied]
        before[name] = implied.union(earlier)
    return reduced


if __name__ == "__main__":
    try:
        print_stages()
    except UserError as error:
        sys.exit(f"error: {error}")
