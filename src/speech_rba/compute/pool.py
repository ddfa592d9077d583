"""Rows on a local pool of processes, one a core."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
ROWS_AT_ONCE = (
    4  # sent to a process together: fewer messages, and the last process still ends with the others
)
RowIn = TypeVar("RowIn")
RowOut = TypeVar("RowOut")


def map_rows(function: Callable[[RowIn], RowOut], rows: Sequence[RowIn]) -> Iterator[RowOut]:
    """`function` of each row, in the order of the rows.

    `function` and the rows are pickled. The number of processes changes no result if `function` depends on
    its row alone. A fresh process imports what `function` needs: a forked one would inherit the threads'
    locks.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_die_with, initargs=(os.getpid(),)) as pool:
        yield from pool.map(function, rows, chunksize=ROWS_AT_ONCE)


def _die_with(parent: int) -> None:
    """This process ends with `parent`, killed before this call or after it; else it would wait for ever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
