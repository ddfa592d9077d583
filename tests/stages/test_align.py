"""The align stage: methods train, a killed run resumes to the same weights, and wrong inputs are refused."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from speech_rba import stages
from speech_rba.alignment.examples import load_examples
from speech_rba.alignment.rewards import REWARDS
from speech_rba.config import load_params
from speech_rba.errors import UserError
from tests.align_inputs import INPUTS, reuse_loaded_parts, run, write_inputs
from tests.nested import merge

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch, small_student, hypotheses, questions) -> Path:
    """The current folder, with the inputs of the align stage."""
    monkeypatch.chdir(tmp_path)
    reuse_loaded_parts(monkeypatch, small_student)
    write_inputs(tmp_path, small_student, hypotheses, questions)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_student, hypotheses, questions) -> Path:
    """A folder as `project`, with an adapter trained by sft in `first`."""
    folder = tmp_path_factory.mktemp("trained")
    write_inputs(folder, small_student, hypotheses, questions)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        reuse_loaded_parts(monkeypatch, small_student)
        run("sft", "first")
    return folder


@pytest.fixture
def project_with_adapter(project, trained) -> Path:
    shutil.copytree(trained / "first", project / "first")
    return project


@pytest.fixture(scope="module")
def killed(tmp_path_factory, small_student, hypotheses, questions) -> tuple[Path, str]:
    """A folder whose rba run was killed between two steps of reinforcement, and what the run had printed."""
    folder = tmp_path_factory.mktemp("killed")
    write_inputs(folder, small_student, hypotheses, questions)
    process = start(folder, "rba", "out")
    deadline = time.monotonic() + 200
    while not list(folder.glob("work/align/*/rba/checkpoint-1/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return folder, process.communicate()[0]


@pytest.fixture
def killed_project(killed, tmp_path, monkeypatch, small_student) -> Path:
    """The current folder, a copy of what the killed run left."""
    shutil.copytree(killed[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    reuse_loaded_parts(monkeypatch, small_student)
    return tmp_path


def start(project: Path, method: str, out: str) -> subprocess.Popen:
    paths = [word for flag, path in INPUTS.items() for word in (f"--{flag}", str(path))]
    command = [sys.executable, "-m", "speech_rba.stages.align", "--method", method, *paths, "--out", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def change(project: Path, **values) -> None:
    """params.yaml has other values under `align`."""
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), {"align": values})))


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def adapter_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]


def test_sft_changes_the_adapter_and_logs_every_step(trained):
    log = log_of(trained / "first")
    assert [row["step"] for row in log] == [1, 2] and all(row["loss"] > 0 for row in log)
    weights = load_file(trained / "first/adapter_model.safetensors")
    assert any("multi_modal_projector" in name for name in weights)
    assert sum(w.abs().sum() for name, w in weights.items() if "lora_B" in name) > 0


@pytest.mark.parametrize("method", ["kd", "opd", "dpo"])
def test_a_method_trains_once_params_names_it(project, method):
    expected = rf"no method '{method}' in align.methods, \['sft', 'rba'\]: add it there"
    with pytest.raises(ValueError, match=expected):
        run(method, "out")
    change(project, methods=[method], **{method: {"max_steps": 1}})
    run(method, "out")
    assert [(row["phase"], row["step"]) for row in log_of(project / "out")] == [(method, 1)]
    assert json.loads((project / "out/training.json").read_text())["num_samples"] == 2


def test_a_killed_rba_run_resumes_to_the_weights_of_an_uninterrupted_run(
    killed, killed_project, trained, monkeypatch
):
    assert not (killed_project / "out").exists()
    resumed_process = start(killed_project, "rba", "out")
    monkeypatch.chdir(trained)
    run("rba", "whole")
    printed, _ = resumed_process.communicate(timeout=300)
    whole = load_file(trained / "whole/adapter_model.safetensors")
    resumed = load_file(killed_project / "out/adapter_model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    log = log_of(killed_project / "out")
    assert [(row["phase"], row["step"]) for row in log] == [("sft", 1), ("rba", 1), ("rba", 2)]
    assert_only_bars(killed[1] + printed)


def assert_only_bars(printed: str) -> None:
    """A training shows a bar for each phase, with loss and reward, and prints no line for each step."""
    assert "sft: 100%" in printed and "rba: 100%" in printed
    assert "loss=" in printed and "reward=" in printed
    assert "{" not in printed and "Warning" not in printed


def test_a_run_with_a_changed_reward_does_not_resume(killed_project, tmp_path_factory, monkeypatch):
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "dvc.yaml", tree)
    with open(tree / "src/speech_rba/alignment/rewards.py", "a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(stages, "ROOT", tree)
    monkeypatch.setitem(REWARDS, "chrf", lambda batch: [-float(len(text)) for text in batch.completions])
    run("rba", "out")
    steps = [row for row in log_of(killed_project / "out") if row["phase"] == "rba"]
    assert [row["rewards/chrf/mean"] < 0 for row in steps] == [True, True]
    assert len(list((killed_project / "work/align").iterdir())) == 1  # the killed run's


def test_eos_is_learned_only_from_answers_that_the_teacher_ended(project, small_student):
    folders = (INPUTS[name] for name in ("rows", "features", "validation"))
    tokenizer = small_student.tokenizer
    clipped, ended = load_examples(small_student, *folders, "train")[:2]
    assert tokenizer.decode(clipped.completion_ids) == "The answer is number 0."
    assert tokenizer.decode(ended.completion_ids) == "The answer is number 1." + tokenizer.eos_token


def test_alignment_continues_from_an_adapter(project_with_adapter):
    project = project_with_adapter
    change(project, start_from="first", sft={"max_steps": 0})
    expected = adapter_hash(project / "first")
    with pytest.raises(UserError, match=rf"align.start_from: .* with its content: write first#{expected}"):
        load_params()
    change(project, start_from=f"first#{expected}")
    run("sft", "second")
    first, second = (load_file(project / out / "adapter_model.safetensors") for out in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


@pytest.mark.parametrize(
    ("name", "value", "adapters_value"),
    [("lora_r", 4, 2), ("lora_alpha", 64, 32), ("lora_target_modules", ["q_proj"], "")],
)
def test_an_adapter_of_another_shape_is_refused(project_with_adapter, name, value, adapters_value):
    digest = adapter_hash(project_with_adapter / "first")
    change(project_with_adapter, start_from=f"first#{digest}", **{name: value})
    expected = rf"first does not fit align.{name}: it has \w+ {adapters_value}"
    with pytest.raises(UserError, match=expected):
        run("sft", "second")


def test_an_adapter_of_another_model_is_refused(project_with_adapter):
    path = project_with_adapter / "first/adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": "org/other"}
    path.write_text(json.dumps(config))
    change(project_with_adapter, start_from=f"first#{adapter_hash(project_with_adapter / 'first')}")
    with pytest.raises(UserError, match=r"first does not fit assets.* base_model_name_or_path org/other"):
        run("sft", "second")


def test_an_adapter_with_other_content_or_none_is_refused(project_with_adapter):
    digest = adapter_hash(project_with_adapter / "first")
    change(project_with_adapter, start_from="first#0123456789abcdef")
    with pytest.raises(UserError, match=rf"first with the content 0123456789abcdef, and it holds {digest}"):
        run("sft", "second")
    change(project_with_adapter, start_from="nowhere#0123456789abcdef")
    with pytest.raises(UserError, match="nowhere, holds no adapter"):
        run("sft", "second")
    change(project_with_adapter, start_from="nowhere")
    with pytest.raises(UserError, match=r"write FOLDER#HASH, HASH being the first 16 hex digits"):
        load_params()


def test_target_modules_that_the_language_model_lacks_are_named(project):
    change(project, lora_target_modules=["q_proj", "query"])
    expected = r"names query, which .* does not have: choose from down_proj, gate_proj, k_pr"
    with pytest.raises(UserError, match=expected):
        run("sft", "out")


def test_rba_needs_the_clips_of_one_step(project):
    change(project, per_device_train_batch_size=7)
    with pytest.raises(UserError, match="a step of rba takes 7 clips, and 6 have enough ASR uncertainty"):
        run("rba", "out")


def test_a_gate_that_has_not_passed_stops_alignment(project):
    (project / "artifacts/gate/gate.json").write_text('{"passed": false}')
    with pytest.raises(ValueError, match="has not passed"):
        run("sft", "out")
    assert not (project / "out").exists()
