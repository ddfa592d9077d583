"""A real server on loopback in a thread, and bytes to send to it."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import soundfile

from speech_rba.server.listen import build_server, open_socket, url_of


@contextmanager
def running(app) -> Iterator[str]:
    """Inside the block the address of a server of `app`."""
    opened = open_socket("127.0.0.1", 0)
    server = build_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield url_of(opened)
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


def flac(clip, rate: int = 16_000) -> bytes:
    """The bytes of a FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, clip, rate, format="FLAC")
    return file.getvalue()
