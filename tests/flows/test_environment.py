"""The environment that importing the packages leaves."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

import flows
import speech_rba

PATHS = ":".join(str(Path(module.__file__).parents[1]) for module in (speech_rba, flows))
SHOW = "import json, os, {module}; print(json.dumps(dict(os.environ)))"


def environment(module: str, **given: str) -> dict[str, str]:
    """That of a process started with `given`, after it imported the module."""
    names = ("no_proxy", "NO_PROXY", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE")
    env = {k: v for k, v in os.environ.items() if k not in names} | {"PYTHONPATH": PATHS} | given
    code = SHOW.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", ["speech_rba", "flows"])
@pytest.mark.parametrize(
    ("given", "direct"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"no_proxy": "a.example, 127.0.0.1"}, "a.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "b.example", "no_proxy": "a.example"}, "a.example,b.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_loopback_is_added_to_no_proxy(module, given, direct):
    env = environment(module, **given)
    assert env["no_proxy"] == env["NO_PROXY"] == direct


def test_threads_wait_without_spinning_and_the_hub_is_off_unless_the_environment_says_otherwise():
    assert environment("flows")["OMP_WAIT_POLICY"] == "passive"
    assert environment("flows", OMP_WAIT_POLICY="active")["OMP_WAIT_POLICY"] == "active"
    assert environment("flows")["HF_HUB_OFFLINE"] == "1"
    assert environment("flows", HF_HUB_OFFLINE="0")["HF_HUB_OFFLINE"] == "0"


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


FETCH = """
import sys, urllib.request, {module}
import httpx, requests
url = sys.argv[1]
print(urllib.request.urlopen(url).read().decode(), httpx.get(url).text, requests.get(url).text)
"""


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_every_client_reaches_a_server_of_this_machine_past_a_dead_proxy(proxy):
    """With the standard library, with Prefect's client (httpx) and with MLflow's (requests)."""
    server = HTTPServer(("127.0.0.1", 0), Hello)
    Thread(target=server.serve_forever, daemon=True).start()
    env = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | {"PYTHONPATH": PATHS}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), proxy)
    fetch = [
        sys.executable,
        "-c",
        FETCH.format(module="speech_rba"),
        f"http://127.0.0.1:{server.server_port}/",
    ]
    done = subprocess.run(fetch, env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "hello hello hello\n"
    fetch[2] = FETCH.format(module="json")  # without the import all three use the proxy
    assert subprocess.run(fetch, env=env, check=False, capture_output=True).returncode == 1
    server.shutdown()
