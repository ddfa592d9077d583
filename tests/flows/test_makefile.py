"""The Makefile's own shell lines, in a path with blanks, with commands that only say how they are called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speech_rba.config import read_yaml

ROOT = Path(__file__).parents[2]
SAYS = """#!/bin/sh
echo "$(basename "$0") $* | $PWD | $PYTHONPATH | $HF_HUB_OFFLINE"
"""
PYTHON = f"""#!/bin/sh
exec "{sys.executable}" "$@"
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A clone with the Makefile of the working tree, committed, and an environment of dummies."""
    folder = tmp_path / 'it\'s (a) "pröject"'
    git = ["git", "-c", "core.hooksPath=/dev/null", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "clone", "-q", str(ROOT), str(folder)], check=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "src", folder / "src", dirs_exist_ok=True)
    commit = [*git, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-a", "-m", "As the working tree"]
    subprocess.run(commit, cwd=folder, check=True)
    (folder / ".venv/bin").mkdir(parents=True)
    for name, text in {"python": PYTHON, "speech-rba": SAYS, "uv": SAYS, "python3.11": SAYS}.items():
        (folder / ".venv/bin" / name).write_text(text)
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/.ready").write_text(f"{folder}\n")
    return folder


def make(project: Path, *arguments: str, **env: str) -> str:
    """What a target prints, whose name may be followed by variables."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "PYTHONPATH", "MAKEFLAGS")
    }
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


def test_a_run_has_the_projects_code_and_the_word_of_the_person_on_the_network(project):
    called = f"speech-rba run | {project} | {project}/src:{project} | "
    assert make(project, "run") == called + "1\n"
    assert make(project, "run", HF_HUB_OFFLINE="0") == called + "0\n"


def test_the_smoke_run_is_of_the_last_commit_with_its_overlay(project):
    (project / "src/speech_rba/config/__init__.py").write_text("raise SystemExit('not committed')")
    clone = project / "work/smoke"
    assert make(project, "smoke").splitlines()[-1] == f"speech-rba run | {clone} | {clone}/src:{clone} | 1"
    asked = read_yaml(ROOT / "configs/smoke.yaml")["synthesize"]
    assert asked.items() <= read_yaml(clone / "params.yaml")["synthesize"].items()


def test_a_translation_follows_the_project_also_when_renamed(project, tmp_path):
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


def test_what_is_installed_is_installed_again_in_a_renamed_project(project, tmp_path):
    assert "uv" not in make(project, "run")
    (project / ".venv/bin/python").write_text(SAYS)
    renamed = project.rename(tmp_path / "its new name")
    said = [line.split(" | ")[0] for line in make(renamed, "run").splitlines()]
    assert said[0] == "python3.11 -m venv .venv" and said[-1] == "speech-rba run"
    assert any(line.startswith("uv pip install") and line.endswith("--editable .") for line in said)
    assert make(renamed, "run").count("\n") == 1
