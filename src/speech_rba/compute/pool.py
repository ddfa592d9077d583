"""Rows on a local pool of processes, one a core."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
ROWS_AT_ONCE = (
    4  # sent to a process together: fewer messages, and the last process still ends with the others
)


@contextmanager
def process_pool() -> Iterator[Callable[..., Iterator]]:
    """A `map` that gives `function` of each row, in the order of the rows, computed by as many processes as
    cores.

    `function` and the rows are pickled. The number of processes changes no result if `function` depends on
    its row alone. A process is spawned: a forked one would inherit the threads' locks.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_die_with, initargs=(os.getpid(),)) as pool:
        yield partial(pool.map, chunksize=ROWS_AT_ONCE)


def _die_with(parent: int) -> None:
    """This process ends with `parent`, killed before this call or after it; else it would wait for ever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
