"""`speech-rba stages`: the graph of stages, in an order to run them."""

import sys

from rich.console import Console
from rich.table import Table

from flows.progress import clock, names, read_times
from flows.stages import check_project, read_graph
from speech_rba.errors import UserError


def print_stages() -> None:
    """Prints each stage with those it waits for, whether it would run, and when it last ran and for how long.

    Raises:
        UserError: there is no pipeline here, or DVC cannot read it.
    """
    check_project()
    waits_for, unchanged = read_graph()
    times = read_times()
    table = Table("stage", "waits for", "next run", "last run", "took")
    for name, earlier in waits_for.items():
        last = times.get(name)
        ended, took = (last.ended.replace("T", " "), clock(last.seconds)) if last else ("-", "-")
        table.add_row(name, names(earlier), "unchanged" if name in unchanged else "runs", ended, took)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    try:
        print_stages()
    except UserError as error:
        sys.exit(f"error: {error}")
