"""Adding a method touches one file and its parameters; adding a reward touches one table and its weight."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from speech_rba.config import Align
from tests.align_inputs import INPUTS, write_inputs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/speech_rba"
METHOD_FILES = {file.stem for file in (PACKAGE / "alignment/methods").glob("*.py")} - {"__init__"}

TOY_METHOD = """
from speech_rba.alignment.methods import sft
from speech_rba.alignment.trainer import DistillationTrainer, Phase


class Method:
    def phases(self, job):
        toy = job.params.align.toy
        return [Phase("toy", self.build_trainer, toy.max_steps, toy.learning_rate, 2)]

    def build_trainer(self, job, arguments):
        return DistillationTrainer(job, arguments, sft.collate, loss)


def loss(trainer, model, batch):
    return trainer.align.toy.scale * sft.loss(trainer, model, batch)
"""
TOY_GROUP = "class Toy(Distillation):\n    scale: Positive\n\n\n"
TOY_REWARD = """

def num_tokens(batch: RewardBatch) -> list[float]:
    return [float(len(ids)) for ids in batch.completion_ids]


REWARDS["num_tokens"] = num_tokens
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory, small_student, hypotheses, questions) -> Path:
    """A copy of the tree with a toy method and a toy reward, and the inputs of the align stage."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "dvc.yaml", tree)
    write_inputs(tree, small_student, hypotheses, questions)
    package = tree / "src/speech_rba"
    (package / "alignment/methods/toy.py").write_text(TOY_METHOD)
    append(package / "alignment/rewards.py", TOY_REWARD)
    add_parameters(package / "config/params.py")
    values = yaml.safe_load((tree / "params.yaml").read_text())
    values["align"] |= {
        "methods": ["toy", "rba"],
        "toy": {"max_steps": 1, "learning_rate": 0.1, "scale": 0.5},
    }
    values["align"]["rba"]["reward_weights"]["num_tokens"] = 1.0
    (tree / "params.yaml").write_text(yaml.safe_dump(values))
    return tree


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def add_parameters(config: Path) -> None:
    """The parameters of the toy method and the weight of the toy reward."""
    replacements = {
        '"dpo", "rba"]': '"dpo", "rba", "toy"]',
        "    rba: Rba\n": "    rba: Rba\n    toy: Toy\n",
        "    instructions: float\n": "    instructions: float\n    num_tokens: float\n",
        "class Dpo(Distillation):": f"{TOY_GROUP}class Dpo(Distillation):",
    }
    text = config.read_text()
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {config}"
        text = text.replace(old, new)
    config.write_text(text)


def test_a_method_in_one_file_and_a_reward_in_the_table_train(tree):
    script = f"""
from pathlib import Path
from speech_rba.config import load_params
from speech_rba.stages import align
inputs = {{name: Path(path) for name, path in { ({k: str(v) for k, v in INPUTS.items()})!r}.items()}}
for method in ("toy", "rba"):
    align.run(load_params(), method, **inputs, out=Path(method))
"""
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    subprocess.run([sys.executable, "-c", script], cwd=tree, env=environment, check=True)
    (step,) = rows_of(tree / "toy")
    assert step["phase"] == "toy" and step["loss"] > 0
    reinforcement = [row for row in rows_of(tree / "rba") if row["phase"] == "rba"]
    assert all(row["rewards/num_tokens/mean"] > 0 for row in reinforcement)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_method_is_a_file_and_a_group_of_parameters():
    names = set(get_args(get_args(Align.model_fields["methods"].annotation)[0]))
    assert names == METHOD_FILES and names <= set(Align.model_fields)


def test_the_align_stage_names_no_method_and_no_reward():
    text = (PACKAGE / "stages/align.py").read_text() + (PACKAGE / "alignment/trainer.py").read_text()
    assert not any(f'"{name}"' in text or f".{name}" in text for name in METHOD_FILES)
