"""Alignment on real parts: both methods train, and a killed run reaches the weights of an uninterrupted one."""

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
from nested import merge
from safetensors.torch import load_file

from speech_rba.alignment.examples import load_examples
from speech_rba.config import load_params
from speech_rba.errors import UserError
from speech_rba.model.hypotheses import save_hypotheses
from speech_rba.records import Clip, Feature, Instruction, Message, Row, Sampling, write_jsonl
from speech_rba.stages import align

ROOT = Path(__file__).parents[2]
NUM_ROWS = 6


@pytest.fixture
def project(tmp_path, monkeypatch, small_student, hypotheses, questions):
    """The folder we are in, with what the align stage reads: six clips, what was heard in them, the base student."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path, small_student, hypotheses, questions)
    return tmp_path


def write_inputs(folder: Path, small_student, hypotheses, questions) -> None:
    """What the stage reads, in `folder`; every answer is asked to have a word."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["align"].update(save_steps=1, per_device_train_batch_size=2, max_completion_tokens=6, lora_r=2)
    values["align"]["sft"]["max_steps"] = 2
    values["align"]["rba"].update(warm_start_steps=1, max_steps=2, num_generations=2)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    rows, clips, features = [], [], []
    word = Instruction(
        name="length_constraints:number_words", arguments={"num_words": 1, "relation": "at least"}
    )
    for i, question in enumerate(questions[:NUM_ROWS]):
        answer = f"The answer is number {i}."
        messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
        sampling = Sampling(temperature=1, top_p=1, max_new_tokens=8)
        rows.append(Row(id=f"r{i}", task="question", split="train", messages=messages, prompt=question,
                        completion=answer, completion_ended=i > 0, teacher="t", template_hash="h", sampling=sampling,
                        seed=0, instructions=[word]))  # fmt: skip
        clips.append(Clip(id=f"c{i}", row_id=f"r{i}", suite="alignment", split="train", path=f"clips/c{i}.flac",
                          transcript=question, voice="v", engine="e", heldout_voice=False, rate=1, pitch_semitones=0,
                          level_db=-20, condition="clean", strength={},
                          heldout_condition=False, spoken="x", seed=0, duration_s=2,
                          sha256=""))  # fmt: skip
        features.append(Feature(clip_id=f"c{i}", duration_s=2, rms_db=-20, peak=0.5, clipped_share=0, silence_share=0,
                                words_per_s=3, judge_hypothesis=question, student_hypothesis=question, wer=0,
                                mean_logprob=0))  # fmt: skip
    for name in ("synthesize", "features", "validate", "gate", "base"):
        (folder / "artifacts" / name).mkdir(parents=True)
    write_jsonl(folder / "artifacts/synthesize/rows.jsonl", rows)
    write_jsonl(folder / "artifacts/features/table.jsonl", features)
    write_jsonl(folder / "artifacts/validate/accepted.jsonl", clips)
    save_hypotheses(folder / "artifacts/features/hypotheses.safetensors", hypotheses[:NUM_ROWS])
    (folder / "artifacts/gate/gate.json").write_text('{"passed": true}')
    small_student.save_pretrained(folder / "artifacts/base")


INPUTS = {
    "rows": "synthesize",
    "features": "features",
    "validation": "validate",
    "gate": "gate",
    "base": "base",
}
INPUTS = {name: Path("artifacts", folder) for name, folder in INPUTS.items()}


def run(method: str, out: str) -> None:
    align.run(load_params(), method, **INPUTS, out=Path(out))


def start(project: Path, method: str, out: str, code: Path = ROOT / "src") -> subprocess.Popen:
    paths = [word for flag, path in INPUTS.items() for word in (f"--{flag}", str(path))]
    command = [sys.executable, "-m", "speech_rba.stages.align", "--method", method, *paths, "--out", out]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project, env=os.environ | {"PYTHONPATH": str(code)}, **piped)


def test_sft_learns_from_every_step(project):
    run("sft", "out")
    log = [json.loads(line) for line in (project / "out/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2] and all(row["loss"] > 0 for row in log)
    weights = load_file(project / "out/adapter_model.safetensors")
    assert any("multi_modal_projector" in name for name in weights)
    assert sum(w.abs().sum() for name, w in weights.items() if "lora_B" in name) > 0


def test_a_training_shows_a_bar_with_loss_and_reward_and_no_line_a_step(project):
    shown, _ = start(project, "rba", "out").communicate(timeout=300)
    assert "sft: 100%" in shown and "rba: 100%" in shown  # the warm start, then reinforcement
    assert "loss=" in shown and "reward=" in shown
    assert "{" not in shown and "Warning" not in shown


@pytest.mark.parametrize("method", ["kd", "opd", "dpo"])
def test_methods_that_params_names_can_be_trained(project, method):
    with pytest.raises(
        ValueError, match=rf"no method '{method}' in align.methods, \['sft', 'rba'\]: add it there"
    ):
        run(method, "out")
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["align"] |= {"methods": [method]}
    values["align"][method]["max_steps"] = 1
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    run(method, "out")
    log = [json.loads(line) for line in (project / "out/log.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["step"]) for row in log] == [(method, 1)]
    assert json.loads((project / "out/training.json").read_text())["num_samples"] == 2


def test_rba_killed_in_reinforcement_reaches_the_weights_of_an_uninterrupted_run(project):
    run("rba", "whole")
    kill_in_reinforcement(project, start(project, "rba", "resumed"))
    assert not (project / "resumed").exists()
    run("rba", "resumed")
    whole, resumed = (load_file(project / out / "adapter_model.safetensors") for out in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [
        (r["phase"], r["step"])
        for r in map(json.loads, (project / "resumed/log.jsonl").read_text().splitlines())
    ]
    assert steps == [("sft", 1), ("rba", 1), ("rba", 2)]


def test_what_a_changed_reward_left_unfinished_is_not_gone_on_from(project, tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "dvc.yaml", tree)
    kill_in_reinforcement(project, start(project, "rba", "out", tree / "src"))
    rewards = tree / "src/speech_rba/alignment/rewards.py"
    before = "return sacrebleu.sentence_chrf(response, [reference]).score / 100"
    assert before in rewards.read_text()
    rewards.write_text(rewards.read_text().replace(before, "return -float(len(response))"))
    assert start(project, "rba", "out", tree / "src").wait(300) == 0
    rows = [json.loads(line) for line in (project / "out/log.jsonl").read_text().splitlines()]
    assert [row["rewards/chrf/mean"] < 0 for row in rows if row["phase"] == "rba"] == [True, True]
    assert len(list((project / "work/align").iterdir())) == 1  # what the old code left


def kill_in_reinforcement(project: Path, process: subprocess.Popen) -> None:
    """kill -9 after the first checkpoint of reinforcement, before the second."""
    deadline = time.monotonic() + 200
    while not list(project.glob("work/align/*/rba/checkpoint-1/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()[-3000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_only_an_answer_that_the_teacher_ended_teaches_to_end(project, small_student):
    folders = (project / "artifacts" / name for name in ("synthesize", "features", "validate"))
    tokenizer = small_student.tokenizer
    cut, ended = load_examples(small_student, *folders, "train")[:2]
    assert tokenizer.decode(cut.completion_ids) == "The answer is number 0."
    assert tokenizer.decode(ended.completion_ids) == "The answer is number 1." + tokenizer.eos_token


def change(project: Path, **values) -> None:
    """params.yaml with other values under `align`."""
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), {"align": values})))


def test_alignment_goes_on_from_an_adapter(project):
    run("sft", "first")
    digest = hashlib.sha256((project / "first/adapter_model.safetensors").read_bytes()).hexdigest()[:16]
    change(project, start_from="first", sft={"max_steps": 0})
    with pytest.raises(
        UserError, match=rf"align.start_from: .* name the adapter with its content: write first#{digest}"
    ):
        load_params()
    change(project, start_from=f"first#{digest}")
    run("sft", "second")
    first, second = (load_file(project / out / "adapter_model.safetensors") for out in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(project):
    run("sft", "first")
    digest = hashlib.sha256((project / "first/adapter_model.safetensors").read_bytes()).hexdigest()[:16]
    for name, value, found in (
        ("lora_r", 4, 2),
        ("lora_alpha", 64, 32),
        ("lora_target_modules", ["q_proj"], ""),
    ):
        change(project, start_from=f"first#{digest}", **{name: value})
        with pytest.raises(UserError, match=rf"first does not fit align.{name}: it has \w+ {found}"):
            run("sft", "second")
        change(project, **{name: load_params(ROOT / "params.yaml").align.model_dump()[name], "lora_r": 2})
    config = json.loads((project / "first/adapter_config.json").read_text())
    (project / "first/adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "org/other"})
    )
    with pytest.raises(
        UserError, match=r"first does not fit assets.* it has base_model_name_or_path org/other"
    ):
        run("sft", "second")
    change(project, start_from="first#0123456789abcdef")
    with pytest.raises(UserError, match=rf"first as it was with 0123456789abcdef; it now holds {digest}"):
        run("sft", "second")
    change(project, start_from="nowhere#0123456789abcdef")
    with pytest.raises(UserError, match="nowhere, holds no adapter"):
        run("sft", "second")
    change(project, start_from="nowhere")
    with pytest.raises(
        UserError, match=r"write FOLDER#HASH, HASH being the first 16 hex digits of the sha256"
    ):
        load_params()


def test_layers_that_the_language_model_lacks_are_named(project):
    change(project, lora_target_modules=["q_proj", "query"])
    with pytest.raises(
        UserError, match=r"names query, which .* does not have: choose from down_proj, gate_proj, k_pr"
    ):
        run("sft", "out")


def test_reinforcement_needs_the_clips_of_one_step(project):
    change(project, per_device_train_batch_size=7)
    with pytest.raises(UserError, match="a step of rba takes 7 clips, and 6 were heard in asr_uncertainty"):
        run("rba", "out")


def test_a_gate_that_has_not_passed_stops_alignment(project):
    (project / "artifacts/gate/gate.json").write_text('{"passed": false}')
    with pytest.raises(ValueError, match="has not passed"):
        run("sft", "out")
    assert not (project / "out").exists()
