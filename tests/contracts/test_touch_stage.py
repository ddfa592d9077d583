"""A new stage needs its module, an entry in dvc.yaml, and its parameters."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGE = '''"""Counts the topics."""

from pathlib import Path

from speech_rba.config import Params
from speech_rba.stages import main, publish


def run(params: Params, topics: Path, out: Path) -> None:
    """Publishes the number of topics times a factor."""
    count = len(topics.read_text().splitlines())
    with publish(out) as folder:
        (folder / "count.txt").write_text(str(params.toy.factor * count))


if __name__ == "__main__":
    main(run)
'''
ENTRY = """
  toy:
    cmd: exec python -m speech_rba.stages.toy --topics data/topics.txt --out artifacts/toy
    deps: [data/topics.txt, src/speech_rba/stages/toy.py, requirements.lock]
    params: [toy]
    outs: [artifacts/toy]
  after_toy:
    cmd: cp artifacts/toy/count.txt artifacts/after_toy.txt
    deps: [artifacts/toy]
    outs: [artifacts/after_toy.txt]
"""
GROUP = "class Toy(Group):\n    factor: PositiveInt\n\n\nclass Params(Group):\n    toy: Toy\n"


GRAPH = """
import json
from flows.stages import read_graph

before, settled = read_graph()
print(json.dumps([before, sorted(settled)]))
"""


def run(folder: Path, *command: str) -> str:
    """The output of a command in the copy, whose `python` and package are those of the copy."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": f"{folder}/src:{folder}", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with the stage: one new file, and additions to dvc.yaml and to the parameters."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("src", "flows", "data"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for file in ("dvc.yaml", "params.yaml", "requirements.lock"):
        shutil.copy(ROOT / file, copy)
    (copy / "src/speech_rba/stages/toy.py").write_text(STAGE)
    stages = copy / "dvc.yaml"
    stages.write_text(stages.read_text().replace("stages:\n", f"stages:{ENTRY}\n", 1))
    with open(copy / "params.yaml", "a") as file:
        file.write("\ntoy:\n  factor: 3\n")
    groups = copy / "src/speech_rba/config/params.py"
    groups.write_text(groups.read_text().replace("class Params(Group):\n", GROUP))
    run(copy, "git", "init", "-q")
    run(copy, sys.executable, "-m", "dvc", "init", "-q")
    return copy


def test_the_new_stage_runs_and_the_flow_has_it_in_its_graph(project):
    run(project, sys.executable, "-m", "dvc", "repro", "-q", "after_toy")
    num_topics = len((project / "data/topics.txt").read_text().splitlines())
    assert (project / "artifacts/after_toy.txt").read_text() == str(3 * num_topics)
    before, settled = json.loads(run(project, sys.executable, "-c", GRAPH))
    assert before["toy"] == [] and before["after_toy"] == ["toy"] and {"toy", "after_toy"} <= set(settled)
