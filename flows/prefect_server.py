"""Prefect's server, at rest and with a locked database.

At rest it asks its broker in memory every two seconds for messages, not every tenth of one, and every five seconds for
work, not every quarter of one; and it looks every half minute, not every five seconds, for what automations wait for in
vain. Only what it does beside requests waits for these: to mark late runs, say, or to delete the logs of a deleted run.

Its garbage is collected by a thread of its own. A cursor that was left behind, once freed, waits for its connection,
which may wait a minute for a locked database; were it freed in the event loop, every request would wait with it.
"""

import asyncio
import functools
import gc
import itertools
import queue
import threading
import time
from datetime import timedelta

from burner_redis.pubsub import PubSub
from fastapi import FastAPI
from prefect.server.api import background_workers, server
from prefect.server.events import triggers

WORK_EVERY = timedelta(seconds=5)
TRIGGERS_EVERY = timedelta(seconds=30)
LOOK_S = 2
COLLECT_S = 10
COLLECT_ALL = 6  # times COLLECT_S; else the young, which is most of what is left behind and takes no time


async def queue_get(self: PubSub, timeout: float | None) -> dict | None:
    """As PubSub's own, which sends a thread to wait for a tenth of a second each time."""
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            if (left := deadline - time.monotonic()) <= 0:
                return None
            await asyncio.sleep(min(LOOK_S, left))


def collect_aside(every_s: float = COLLECT_S) -> None:
    """From now on only a thread collects garbage."""

    def collect() -> None:
        for number in itertools.count():
            time.sleep(every_s)
            gc.collect(1 if number % COLLECT_ALL else 2)
            if number == 0:
                gc.freeze()  # what a server is made of stays; to look at it each time takes a third of a second

    gc.disable()
    threading.Thread(target=collect, daemon=True).start()


def create_app() -> FastAPI:
    """The application, for uvicorn. Prefect has no settings for this: they are its pinned version's private parts."""
    PubSub._queue_get = queue_get
    background_workers.Worker = functools.partial(
        background_workers.Worker, minimum_check_interval=WORK_EVERY, scheduling_resolution=WORK_EVERY
    )
    triggers.consumer = functools.partial(triggers.consumer, TRIGGERS_EVERY)
    app = server.create_app()
    collect_aside()
    return app
