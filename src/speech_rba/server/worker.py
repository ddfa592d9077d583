"""One thread that computes, behind a bounded queue: the models here are not made for two threads at once."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from speech_rba.server.refusal import Refusal

END = object()  # of a job's results


@dataclass
class Job:
    """A computation whose results go to the event loop that ordered it, one by one."""

    compute: Callable[[], Iterator[Any]]
    loop: asyncio.AbstractEventLoop
    results: asyncio.Queue = field(default_factory=asyncio.Queue)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def send(self, result: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)
        except RuntimeError:  # the loop is closed: the server stops
            self.abandoned.set()

    async def each(self) -> AsyncGenerator[Any]:
        """The results as they come; whoever stops before the end abandons the job."""
        try:
            while (result := await self.results.get()) is not END:
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            self.abandoned.set()


class Worker:
    """Computes at most one job at a time while at most `max_waiting` others wait."""

    def __init__(self, max_waiting: int):
        self.jobs: queue.Queue[Job] = queue.Queue(max_waiting)
        threading.Thread(target=self._work, name="student", daemon=True).start()

    @property
    def num_waiting(self) -> int:
        return self.jobs.qsize()

    def check_room(self) -> None:
        """Raises Refusal where a job would not be taken now."""
        if self.jobs.full():
            raise Refusal(
                429, f"{self.num_waiting} requests wait already: try again later", code="queue_full"
            )

    def start(self, compute: Callable[[], Iterator[Any]]) -> Job:
        """The job that yields what `compute()` yields.

        Raises:
            Refusal: too many wait.
        """
        self.check_room()  # one event loop fills the queue, so there is room until it is put there
        job = Job(compute, asyncio.get_running_loop())
        self.jobs.put_nowait(job)
        return job

    def _work(self) -> None:
        while True:
            run(self.jobs.get())


async def abandon_when_left(request: Request, job: Job) -> None:
    """Abandons a job when the client closes its connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.abandoned.set()


def run(job: Job) -> None:
    """Sends the results of a job, then its error if it has one, then the end; stops once it is abandoned."""
    try:
        results = job.compute()
        while not job.abandoned.is_set() and (result := next(results, END)) is not END:
            job.send(result)
        close = getattr(results, "close", None)
        if close:  # a half-used generator holds the adapter's switch
            close()
    except Exception as error:
        job.send(error)
    job.send(END)
