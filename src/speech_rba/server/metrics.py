"""What a server counts, in Prometheus' form."""

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech_rba.server.worker import Worker

SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class Metrics:
    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    audio_s: Counter
    tokens: Counter
    no_speech: Counter


def build_metrics(worker: Worker) -> Metrics:
    """The metrics of one server, all at zero."""
    registry = CollectorRegistry()
    Gauge("speech_rba_queue_length", "requests that wait for the student", registry=registry).set_function(
        lambda: worker.num_waiting
    )
    labels = ["path", "status"]
    return Metrics(
        registry,
        Counter("speech_rba_requests", "requests by path and status", labels, registry=registry),
        Histogram("speech_rba_request_seconds", "to the end", ["path"], registry=registry, buckets=SECONDS),
        Counter("speech_rba_audio_seconds", "seconds of audio that were answered", registry=registry),
        Counter("speech_rba_completion_tokens", "tokens of answers", registry=registry),
        Counter("speech_rba_no_speech", "recordings without speech", registry=registry),
    )


def counted(app: ASGIApp, metrics: Metrics, paths: set[str]) -> ASGIApp:
    """`app` with its requests counted; a path outside `paths` counts as `other`."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            path = scope["path"] if scope["path"] in paths else "other"
            metrics.requests.labels(path, status).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - began)

    return counting
