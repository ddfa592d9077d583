"""What a request must fulfil before it is read: host, origin, key, size.

A page of another site can send requests to loopback, and a name of its domain can be made to lead there (DNS
rebinding). The browser names the page in `Origin` and the name in `Host`.
"""

import hmac
import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from speech_rba.server.refusal import Refusal

LOOPBACK_NAMES = {"127.0.0.1", "localhost", "::1"}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(request: Request) -> None:
    """Raises Refusal where the request reached this machine by a name that is not loopback's."""
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in LOOPBACK_NAMES:
        raise Refusal(403, f"the host {host!r} is not this machine: open http://127.0.0.1:PORT", code="host")


def check_origin(request: Request) -> None:
    """Raises Refusal where a page of another site sent the request."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise Refusal(403, f"a page of {origin} sent this request; only pages of {host} may", code="origin")


def check_key(request: Request, key: str | None) -> None:
    """Raises Refusal unless the request carries `key`; without a key every request may pass."""
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Refusal(
            401, "the key is missing or wrong: send `Authorization: Bearer KEY`", code="invalid_api_key"
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request.

    Raises:
        Refusal: it has more than `max_bytes`, by its header or in fact; the rest is not read.
    """
    declared = request.headers.get("content-length", "")
    too_large = Refusal(
        413,
        f"the request has more than {max_bytes / 1e6:g} MB: cut the recording, send it compressed (MP3, OGG) "
        "or start the server with a higher --max-upload-mb",
        code="too_large",
    )
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
