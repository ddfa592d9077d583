"""`make smoke` runs the pipeline without network; here, that a command has none."""

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"


def connect(*address: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools/offline.py", sys.executable, "-c", CONNECT]
    return subprocess.run([*command, *map(str, address)], capture_output=True, text=True, check=False)


def test_a_command_reaches_no_address_outside():
    with socket.create_server(("127.0.0.1", 0)) as server:  # on the machine's loopback, not on the command's
        done = connect(*server.getsockname())
    if "left on" in done.stdout:
        assert done.returncode == 0  # the same command works with the network
    else:
        assert done.stdout == "network: off\n" and "refused" in done.stderr
        assert "unreachable" in connect("192.0.2.1", 80).stderr  # an address reserved for documentation
