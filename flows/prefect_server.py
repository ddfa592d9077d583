"""Prefect's server with a garbage collector that does not stop its event loop.

A database cursor that nobody closed waits for its connection when it is freed, and the connection may wait a
minute for a locked database. A collection in the event loop would make every request wait with it; a thread
collects instead.
"""

import gc
import itertools
import threading
import time

from fastapi import FastAPI

COLLECT_S = 10
FULL_EVERY = 6  # each sixth collection takes all generations; the young ones hold most of the garbage


def collect_in_a_thread(every_s: float = COLLECT_S) -> None:
    """From now on only a thread collects garbage."""

    def collect() -> None:
        for number in itertools.count():
            time.sleep(every_s)
            gc.collect(1 if number % FULL_EVERY else 2)
            if number == 0:
                gc.freeze()  # the server's own objects stay; scanning them takes a third of a second

    gc.disable()
    threading.Thread(target=collect, daemon=True).start()


def create_app() -> FastAPI:
    """The application, for uvicorn."""
    from prefect.server.api import (
        server,
    )  # here: the import takes seconds, and the garbage thread needs none of it

    app = server.create_app()
    collect_in_a_thread()
    return app
