"""A socket to listen on, and the server on it."""

import socket

import uvicorn
from starlette.types import ASGIApp

from speech_rba.errors import UserError

STOP_S = 5  # an answer in progress may end
MAX_CONNECTIONS = 64  # each may hold an upload in memory; above, the server answers 503


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on `host`; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host} port {port} ({cause}): name another --port") from error


def url_of(opened: socket.socket) -> str:
    """The address of a server on this socket."""
    host, port, *_ = opened.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def build_server(app: ASGIApp) -> uvicorn.Server:
    """A server that logs warnings only and writes no access log."""
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
    )
    return uvicorn.Server(settings)
