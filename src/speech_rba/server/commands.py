"""What `speech-rba serve` and `speech-rba demo` do: open the port, load the student, listen."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from speech_rba.errors import UserError
from speech_rba.server.guards import is_loopback
from speech_rba.server.listen import build_server, open_socket, url_of

KEY = "SPEECH_RBA_API_KEY"


@dataclass(frozen=True)
class Source:
    """Where a student is: its folders, its id in requests, and the version of its weights."""

    base: Path
    adapter: Path | None
    model: str
    fingerprint: str


@dataclass(frozen=True)
class Limits:
    """`max_waiting` requests wait while one is answered; an upload has at most `max_upload_mb`."""

    max_waiting: int
    max_upload_mb: float


def server_key(host: str) -> str | None:
    """The key that requests must carry, if one is set.

    Raises:
        UserError: other machines can reach `host`, and no key is set.
    """
    key = os.environ.get(KEY) or None
    if key is None and not is_loopback(host):
        raise UserError(
            f"other machines reach {host}: set {KEY} to a key that they must send, or leave --host out"
        )
    return key


@contextmanager
def registered_source(model_name: str, version: str) -> Iterator[Source]:
    """Inside the block the student of a registered version."""
    from speech_rba.registry.versions import fetched_version

    with fetched_version(model_name, version) as (entry, bundle):
        label = f"{entry.name} version {entry.version}"
        yield Source(bundle / "base", bundle / "adapter", f"{model_name}/{version}", label)


def serve(source: Source, host: str, port: int, limits: Limits) -> None:
    """Answers requests until the process is stopped."""
    key = server_key(host)
    opened = open_socket(host, port)
    began = time.perf_counter()
    from speech_rba.server.api import Service, build_app  # the import takes seconds, an error above none
    from speech_rba.server.student import load

    service = Service(
        aligned=load(source.base, source.adapter),
        model=source.model,
        fingerprint=source.fingerprint,
        key=key,
        loopback=is_loopback(host),
        max_waiting=limits.max_waiting,
        max_upload_bytes=int(limits.max_upload_mb * 1e6),
    )
    app = build_app(service)
    print(f"Model:   {source.model} ({source.fingerprint}), loaded in {time.perf_counter() - began:.1f} s")
    print(f"Address: {url_of(opened)}/v1, {'with' if key else 'without'} a key; stop with Ctrl-C", flush=True)
    listen(app, opened)


def listen(app: ASGIApp, opened) -> None:
    """Serves `app` on a socket until SIGINT or SIGTERM."""
    try:
        build_server(app).run(sockets=[opened])
    except KeyboardInterrupt:  # uvicorn raises it again after a clean stop
        pass
    finally:
        opened.close()
