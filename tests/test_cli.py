"""The command line: real audio files in, answers out, one line for an error, and what to do next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from speech_rba.cli import main, print_change, print_side_by_side
from speech_rba.synthesis.voices.voices import speak

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project(student, tmp_path_factory):
    """A folder with the default student before alignment, and recordings."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    student.save_pretrained(folder / "artifacts/base")
    question = speak("hibari-heart", "What is the capital of France?", 1.0, 0.0)
    stereo = np.column_stack([soxr.resample(question, 16_000, 44_100)] * 2)
    for kind in ("ogg", "wav", "flac"):
        soundfile.write(folder / f"stereo.{kind}", stereo, 44_100)
    soundfile.write(folder / "long.wav", np.zeros(31 * 60 * 1000), 1000)
    soundfile.write(folder / "empty.wav", np.zeros(0), 8000)
    (folder / "text.wav").write_text("no audio at all")
    return folder


@pytest.fixture
def call(project, monkeypatch, capsys):
    """The command in this process: to start another takes seconds."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for its process

    def call(*arguments: str, folder: Path = project) -> subprocess.CompletedProcess:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["speech-rba", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        output, code = capsys.readouterr(), exit.value.code
        if isinstance(code, str):  # Python prints it and exits with 1
            return subprocess.CompletedProcess(arguments, 1, output.out, output.err + code)
        return subprocess.CompletedProcess(arguments, code, output.out, output.err)

    return call


def test_the_installed_command_answers(project):
    command = [Path(sys.executable).parent / "speech-rba", "talk", "stereo.wav", "--method", "base"]
    done = subprocess.run(
        command, cwd=project, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Paris" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["ogg", "wav", "flac"])
def test_a_spoken_question_of_any_form_is_answered(call, kind):
    done = call("talk", f"stereo.{kind}", "--method", "base")
    assert done.returncode == 0, done.stderr
    transcript, answer, timing = done.stdout.splitlines()
    assert transcript == "Transcript: What is the capital of France?"
    assert "Paris" in answer
    assert " s of audio, after " in timing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["talk", "text.wav", "--method", "base"], "text.wav is no readable audio file"),
        (["talk", "none.wav", "--method", "base"], "none.wav is no readable audio file"),
        (["talk", "empty.wav", "--method", "base"], "empty.wav holds no sound"),
        (["talk", "long.wav", "--method", "base"], "long.wav is longer than 30 minutes; cut it"),
        (["talk", "stereo.wav", "--method", "sft"], "artifacts/align/sft is missing: run `make run` first"),
        (["talk", "stereo.wav"], "registration.json is missing: run `make run` first"),
        (["compare"], "nothing is registered yet: run `make run`"),
        (["promote", "7"], "speech-rba-candidates has no version 7"),
        (["promote"], "nothing is registered yet: run `make run`"),
        (["rollback"], "speech-rba has no previous version"),
        (["promote", "--force"], "force needs a reason"),
    ],
)
def test_an_error_of_the_user_is_one_line(call, arguments, message):
    done = call(*arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_with_nothing_registered_nothing_waits(call):
    first, last = call("review").stdout.splitlines()
    assert first == "No candidate waits: none is newer than the champion." and last == "Next: speech-rba run"


def test_a_promotion_is_printed_with_how_to_undo_it(capsys):
    print_change({"model": "toy", "from": "1", "to": "2", "who": "ann", "action": "promote"})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert (
        first == "Champion: toy version 2, before it version 1; by ann"
        and last == "Undo:     speech-rba rollback"
    )


def test_a_promotion_is_printed_with_its_checks_and_what_was_forced(capsys):
    checks = {
        "checks": ["reward hacking in training: none", "word error rate: 0.05"],
        "forced": ["word error rate"],
    }
    record = {
        "model": "toy",
        "from": "1",
        "to": "2",
        "who": "ann",
        "action": "promote",
        "reason": "new voices",
    }
    print_change(record | checks)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "Checked:  reward hacking in training: none",
        "Checked:  word error rate: 0.05",
        "Forced:   word error rate; new voices",
    ]


@pytest.mark.parametrize("command", ["review", "compare", "promote", "rollback"])
def test_a_server_that_is_down_is_one_line(call, monkeypatch, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    done = call(command)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("error: no MLflow server answers at http://127.0.0.1:1")
        and "\n" not in done.stderr
    )


def test_the_help_names_the_commands_and_what_promote_checks(call):
    assert "register.limits" in call("promote", "--help").stdout
    overview = call("--help").stdout
    for command in ("run", "talk", "review", "compare", "promote", "rollback", "fetch-suite"):
        assert command in overview


def test_versions_are_compared_in_a_terminal_of_any_width(capsys):
    scores = {f"suite_{i}/likelihood_of_the_teacher's_answer": -1.25 for i in range(9)}
    print_side_by_side(
        [{"alias": "candidate", "version": "3"} | scores, {"alias": "champion", "version": "2"}]
    )
    table = capsys.readouterr().out
    assert all(name in table for name in scores) and table.count("-1.250") == 9
    assert table.index("candidate") < table.index("champion") and max(map(len, table.splitlines())) <= 80


def test_talk_uses_the_registered_method(project, call):
    (project / "artifacts/register").mkdir()
    (project / "artifacts/register/registration.json").write_text(json.dumps({"method": "kd"}))
    assert "artifacts/align/kd is missing" in call("talk", "stereo.wav").stderr


def test_a_typo_in_the_parameters_is_named(call, tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("top_k", "topk"))
    done = call("compare", folder=tmp_path)
    assert done.returncode == 1 and "base.topk" in done.stderr and "Traceback" not in done.stderr
