"""Prefect's server at rest: it asks its broker in memory every half second for messages, not every tenth of one, and
every two seconds for work, not every quarter of one.

Only what it does beside requests waits for the broker: to mark late runs, say, or to delete the logs of a deleted run.
"""

import asyncio
import functools
import queue
import time
from datetime import timedelta

from burner_redis.pubsub import PubSub
from fastapi import FastAPI
from prefect.server.api import background_workers, server

REST = timedelta(seconds=2)
LOOK_S = 0.5


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


def create_app() -> FastAPI:
    """The application, for uvicorn. Prefect has no settings for this: they are its pinned version's private parts."""
    PubSub._queue_get = queue_get
    background_workers.Worker = functools.partial(
        background_workers.Worker, minimum_check_interval=REST, scheduling_resolution=REST
    )
    return server.create_app()
