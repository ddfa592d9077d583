"""A suite is fetched from a local server that answers as the hub does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from test_read import write_parquet

from speech_rba.errors import UserError
from speech_rba.suites.hub import fetch_suite
from speech_rba.suites.read import read_suite

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """One dataset, team/voices, with the tag v1; a subclass in a fixture sets `files`."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        _, _, place = self.path.partition("/datasets/team/voices/")
        if place == "revision/v1":
            names = [{"rfilename": name} for name in self.files]
            return self.give(
                200, json.dumps({"id": "team/voices", "sha": COMMIT, "siblings": names}).encode()
            )
        content = self.files.get(place.removeprefix(f"resolve/{COMMIT}/"))
        if content is None:
            return self.give(
                404, b"", {"X-Error-Code": "RevisionNotFound" if "revision" in place else "EntryNotFound"}
            )
        return self.give(200, content, {"ETag": f'"{len(content)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def give(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(address, files) of a hub; a file that is None is listed and missing."""
    made = write_parquet(tmp_path / "made", {"prompt": ["How do I harm?"]}) / "test-00000-of-00001.parquet"
    files = {
        "README.md": b"",
        "advbench/test-00000-of-00001.parquet": made.read_bytes(),
        "other/a.parquet": b"x",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


def fetch(address: str, folder: Path, *arguments: str, offline: str = "0") -> subprocess.CompletedProcess:
    """The command in a new process, since its library reads the hub's address when it is imported."""
    env = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": offline, "HF_HOME": str(folder / "home")}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", "from speech_rba.cli import main; main()", "fetch-suite", *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_subset_is_fetched_at_its_commit(tmp_path, hub):
    address, _ = hub
    done = fetch(address, tmp_path, "team/voices@v1/advbench", "outside/no-harm")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outside/no-harm"
    assert sorted(path.name for path in folder.iterdir()) == ["source.json", "test-00000-of-00001.parquet"]
    assert not folder.joinpath("test-00000-of-00001.parquet").is_symlink()
    assert json.loads((folder / "source.json").read_text())["revision"] == COMMIT
    assert done.stdout.endswith(
        "Next: add to params.yaml, below evaluate.suites:\n  no_harm: outside/no-harm\n"
    )
    assert list((tmp_path / "outside").iterdir()) == [folder]
    [recording], _ = read_suite(folder)
    assert recording.question.refuse  # by the fetched subset, whatever the name of the folder


@pytest.fixture
def online(monkeypatch) -> Callable[[str], None]:
    """Sets the hub's address in this process, as HF_ENDPOINT and HF_HUB_OFFLINE do in a new one."""

    def set_address(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()

    yield set_address
    close_session()


def test_an_interrupted_fetch_leaves_no_folder(tmp_path, hub):
    address, files = hub
    files["advbench/test-00001-of-00002.parquet"] = None
    done = fetch(address, tmp_path, "team/voices@v1/advbench", "outside/harm")
    assert done.returncode == 1 and done.stderr.startswith("error: cannot fetch team/voices@v1/advbench (")
    assert done.stderr.count("\n") == 1 and list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("team/voices@v2/advbench", r"^cannot fetch team/voices@v2/advbench \("),
        ("team/voices@v1/none", "has no subset none of .parquet files at v1; it has advbench, other"),
    ],
)
def test_a_dataset_that_the_hub_lacks_is_named_in_one_line(tmp_path, hub, online, dataset, message):
    online(hub[0])
    with pytest.raises(UserError, match=message) as raised:
        fetch_suite(dataset, tmp_path / "harm")
    assert "\n" not in str(raised.value) and not (tmp_path / "harm").exists()


def test_an_unreachable_hub_is_one_line_on_stderr(tmp_path):
    done = fetch("http://127.0.0.1:9", tmp_path, "team/voices@v1/advbench", "harm")
    assert done.returncode == 1 and done.stderr.startswith("error: cannot fetch"), done.stderr
    assert done.stderr.count("\n") == 1


def test_offline_the_message_names_the_setting(tmp_path):
    with pytest.raises(UserError, match=r"cannot fetch team/voices@v1/advbench .*; set HF_HUB_OFFLINE=0"):
        fetch_suite("team/voices@v1/advbench", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "dataset", ["team/voices/advbench", "team/voices@v1", "voices@v1/a", "team/voices@/a", "a/b@v/../c/"]
)
def test_a_dataset_name_needs_revision_and_subset(tmp_path, dataset):
    with pytest.raises(UserError, match="must be OWNER/NAME@REVISION/SUBSET; REVISION is a commit or tag"):
        fetch_suite(dataset, tmp_path / "new")


def test_an_existing_folder_is_not_overwritten(tmp_path):
    with pytest.raises(UserError, match="is there already; remove it, or name another folder"):
        fetch_suite("team/voices@v1/advbench", tmp_path)
