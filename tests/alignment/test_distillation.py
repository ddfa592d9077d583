"""The losses of distillation: what each is zero for, and what it is by hand."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from speech_rba.alignment.methods import kd
from transformers import TrainingArguments

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods.dpo import DpoTrainer
from speech_rba.alignment.methods.kd import KdTrainer
from speech_rba.alignment.methods.opd import OpdTrainer
from speech_rba.model.logps import divergence, sequence_logps
from speech_rba.model.student import Student


def test_divergence_by_hand():
    half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert divergence(half, half).item() == 0
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 ln(4 / 3)
    assert divergence(half, quarter).item() == pytest.approx(0.1438, abs=1e-4)
    # 0.25 ln(0.5) + 0.75 ln(1.5)
    assert divergence(quarter, half).item() == pytest.approx(0.1308, abs=1e-4)


@pytest.fixture(scope="module")
def model(small_student):
    return get_peft_model(
        Student(small_student.config).eval(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )


def test_a_fresh_adapter_prefers_neither_answer(model, hypotheses, tmp_path):
    """Then the margin is 0 and the loss ln 2; its gradient favours the teacher's answer."""
    student = model.base_model.model
    spoken = [student.bridge.cross(h, 1, 1.0) for h in hypotheses[:2]]
    ids = student.tokenizer(["Paris.", "It is a large river."]).input_ids
    batch = kd.collate([Example(None, None, *e) for e in zip(spoken, spoken, ids, strict=True)])
    trainer = trainer_of(DpoTrainer, model, tmp_path, max_new_tokens=6, beta=0.1)
    loss = trainer.compute_loss(model, dict(batch))
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)
    loss.backward()
    before = sequence_logps(student, spoken, ids).sum()
    with torch.no_grad():
        for weight in (w for w in model.parameters() if w.grad is not None):
            weight -= weight.grad * 0.05 / weight.grad.norm().clamp(min=1e-9)
    assert sequence_logps(student, spoken, ids).sum() > before
    model.zero_grad()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)


def trainer_of(kind: type, model, tmp_path, **more):
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, remove_unused_columns=False)
    return kind(model, args, data_collator=kd.collate, train_dataset=[], **more)


@pytest.mark.parametrize(("kind", "more"), [(KdTrainer, {}), (OpdTrainer, {"max_new_tokens": 6})])
def test_a_student_that_hears_what_the_teacher_reads_has_nothing_to_learn(
    model, hypotheses, tmp_path, kind, more
):
    """Its adapter is build_student, so it differs from its teacher by what it hears alone."""
    student = model.base_model.model
    spoken = [student.bridge.cross(h, 1, 1.0) for h in hypotheses[:2]]
    other = student.text_prompts(["Why do cats purr?", "What is rust?"])
    ids = student.tokenizer(["Paris.", "It is a large river."]).input_ids
    trainer = trainer_of(kind, model, tmp_path, **more)
    same, differs = (
        trainer.compute_loss(
            model, kd.collate([Example(None, None, *e) for e in zip(spoken, read, ids, strict=True)])
        )
        for read in (spoken, other)
    )
    assert same.item() == pytest.approx(0, abs=1e-5) and differs.item() > 0.001
    differs.backward()
    assert any(
        w.grad is not None and w.grad.any() for name, w in model.named_parameters() if "lora_B" in name
    )
    model.zero_grad()
