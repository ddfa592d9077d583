"""`serve` refuses what cannot work before anything is loaded, and says what to do."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from speech_rba.cli import app
from speech_rba.errors import UserError
from speech_rba.server import commands
from speech_rba.server.listen import open_socket

NOWHERE = commands.Source(Path("no/base"), None, "speech-rba/base", "test")
LIMITS = commands.Limits(1, 1)


def test_other_machines_need_a_key(monkeypatch):
    monkeypatch.delenv(commands.KEY, raising=False)
    with pytest.raises(UserError, match=r"other machines reach 0\.0\.0\.0: set SPEECH_RBA_API_KEY"):
        commands.serve(NOWHERE, "0.0.0.0", 0, LIMITS)
    assert commands.server_key("localhost") is None and commands.server_key("::1") is None
    monkeypatch.setenv(commands.KEY, "secret")
    assert commands.server_key("0.0.0.0") == "secret"


def test_a_port_in_use_is_named():
    with open_socket("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1 port {port} .*another --port"):
            commands.serve(NOWHERE, "127.0.0.1", port, LIMITS)


def test_a_student_is_of_the_registry_or_of_the_folder():
    result = CliRunner().invoke(app, ["serve", "--version", "1", "--method", "sft"])
    assert isinstance(result.exception, UserError) and "name one of them" in str(result.exception)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("champion", r"toy has no champion; candidates: none; name champion, previous, candidate or"),
        ("7", r"toy-candidates has no version 7; candidates: none"),
    ],
)
def test_a_version_that_is_not_there_is_told_with_those_that_are(project_folder, version, message):
    with pytest.raises(UserError, match=message), commands.registered_source("toy", version):
        pass
