"""The shell lines of the Makefile, in a path with blanks, with commands that print how they are called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speech_rba.config import read_yaml

ROOT = Path(__file__).parents[2]
PRINTS_CALL = """#!/bin/sh
echo "$(basename "$0") $* | $PWD | $PYTHONPATH | $HF_HUB_OFFLINE"
"""
PYTHON = f"""#!/bin/sh
exec "{sys.executable}" "$@"
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A clone with the Makefile of the working tree, committed, and an environment of such commands."""
    folder = tmp_path / 'it\'s (a) "pröject"'
    git = ["git", "-c", "core.hooksPath=/dev/null", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "clone", "-q", str(ROOT), str(folder)], check=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "src", folder / "src", dirs_exist_ok=True)
    commit = [*git, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-a", "-m", "As the working tree"]
    subprocess.run(commit, cwd=folder, check=True)
    (folder / ".venv/bin").mkdir(parents=True)
    for name, text in {
        "python": PYTHON,
        "speech-rba": PRINTS_CALL,
        "uv": PRINTS_CALL,
        "python3.11": PRINTS_CALL,
    }.items():
        (folder / ".venv/bin" / name).write_text(text)
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/.ready").write_text(f"{folder}\n")
    return folder


def make(project: Path, *arguments: str, **env: str) -> str:
    """What `make` prints with these arguments, a target and variables."""
    dropped = ("HF_HUB_OFFLINE", "PYTHONPATH", "MAKEFLAGS")
    inherited = {k: v for k, v in os.environ.items() if k not in dropped}
    done = subprocess.run(
        ["make", "-s", *arguments],
        cwd=project,
        env=inherited | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_has_the_code_of_the_project_and_may_switch_the_hub_on(project):
    called = f"speech-rba run | {project} | {project}/src:{project} | "
    assert make(project, "run") == called + "1\n"
    assert make(project, "run", HF_HUB_OFFLINE="0") == called + "0\n"


def test_the_smoke_run_takes_the_last_commit_and_its_overlay(project):
    (project / "src/speech_rba/config/__init__.py").write_text("raise SystemExit('not committed')")
    clone = project / "work/smoke"
    assert make(project, "smoke").splitlines()[-1] == f"speech-rba run | {clone} | {clone}/src:{clone} | 1"
    overlay = read_yaml(ROOT / "configs/smoke.yaml")["synthesize"]
    assert overlay.items() <= read_yaml(clone / "params.yaml")["synthesize"].items()


def test_a_translation_takes_the_last_commit_of_a_renamed_project(project, tmp_path):
    make(project, "translation", "TO=es")
    project = project.rename(tmp_path / "its new name")
    (project / ".venv/.ready").write_text(f"{project}\n")
    shutil.copy(project / "LICENSE", project / "NOTICE")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
    subprocess.run([*git, "commit", "-q", "--no-gpg-sign", "-a", "-m", "Go on"], cwd=project, check=True)
    clone = project / "work/translation_es"
    assert make(project, "translation", "TO=es") == f"speech-rba run | {clone} | {clone}/src:{clone} | 1\n"
    assert (clone / "NOTICE").read_text() == (project / "LICENSE").read_text()
    assert "target_language: Spanish" in (clone / "params.yaml").read_text()


def test_a_renamed_project_installs_its_environment_again(project, tmp_path):
    assert "uv" not in make(project, "run")
    (project / ".venv/bin/python").write_text(PRINTS_CALL)
    renamed = project.rename(tmp_path / "its new name")
    calls = [line.split(" | ")[0] for line in make(renamed, "run").splitlines()]
    assert calls[0] == "python3.11 -m venv .venv" and calls[-1] == "speech-rba run"
    assert any(line.startswith("uv pip install") and line.endswith("--editable .") for line in calls)
    assert make(renamed, "run").count("\n") == 1


def test_help_lists_every_target(project):
    text = (ROOT / "Makefile").read_text()
    targets = text.split(".PHONY: ")[1].splitlines()[0].split()
    assert sorted(line.split()[1] for line in make(project, "help").splitlines()) == sorted(targets)
