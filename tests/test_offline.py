"""`make smoke` runs the whole chain with the network switched off; here, that it is off."""

import socket
import subprocess
import sys
from pathlib import Path

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"


def connect(*address: object) -> subprocess.CompletedProcess:
    command = [sys.executable, Path(__file__).with_name("offline.py"), sys.executable, "-c", CONNECT]
    return subprocess.run([*command, *map(str, address)], capture_output=True, text=True, check=False)


def test_nothing_outside_is_reached():
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as server:  # of the machine, not of the command's own loopback
        done = connect(*server.getsockname())
    if "left on" in done.stdout:
        assert done.returncode == 0  # the same command works with the network on
    else:
        assert done.stdout == "network: off\n" and "refused" in done.stderr
        assert "unreachable" in connect("192.0.2.1", 80).stderr  # an address for documentation, of nobody
