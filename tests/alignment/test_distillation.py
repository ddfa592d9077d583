"""The losses of distillation: what each is zero for, and what it is by hand."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods import kd, load_method
from speech_rba.alignment.trainer import DistillationTrainer, Job, TrainingLog, trainer_arguments
from speech_rba.config import load_params
from speech_rba.model.logps import divergence, sequence_logps
from speech_rba.model.student import Student
from tests.align_inputs import ROOT


def test_divergence_by_hand():
    half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert divergence(half, half).item() == 0
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 ln(4 / 3)
    assert divergence(half, quarter).item() == pytest.approx(0.1438, abs=1e-4)
    # 0.25 ln(0.5) + 0.75 ln(1.5)
    assert divergence(quarter, half).item() == pytest.approx(0.1308, abs=1e-4)


@pytest.fixture(scope="module")
def model(small_student) -> PeftModel:
    """A small student with a fresh adapter."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    return get_peft_model(Student(small_student.config).eval(), config)


@pytest.fixture
def trainer_of(model, tmp_path):
    """Makes the trainer of a method, which samples answers of at most six tokens."""

    def make(method: str) -> DistillationTrainer:
        params = load_params(ROOT / "params.yaml")
        params = params.model_copy(
            update={"align": params.align.model_copy(update={"max_completion_tokens": 6})}
        )
        job = Job(model, [], params, tmp_path, TrainingLog(tmp_path / "log.jsonl"))
        return load_method(method).build_trainer(job, trainer_arguments(tmp_path, 1, 0, 1))

    return make


@pytest.fixture(scope="module")
def prompts(model, hypotheses):
    """Two clips' prompts."""
    return [model.base_model.model.bridge.cross(h, 1, 1.0) for h in hypotheses[:2]]


def batch_of(model: PeftModel, spoken: list, written: list) -> dict:
    ids = model.base_model.model.tokenizer(["Paris.", "It is a large river."]).input_ids
    return kd.collate([Example(None, None, *fields) for fields in zip(spoken, written, ids, strict=True)])


def lora_b_gradients(model: PeftModel) -> list[torch.Tensor]:
    weights = (weight for name, weight in model.named_parameters() if "lora_B" in name)
    return [weight.grad for weight in weights if weight.grad is not None]


def test_with_a_fresh_adapter_the_dpo_loss_is_ln_2_and_its_gradient_favours_the_teacher(
    model, prompts, trainer_of
):
    """A fresh adapter changes nothing, so the margin is 0."""
    trainer, batch = trainer_of("dpo"), batch_of(model, prompts, prompts)
    ids = [
        row[mask.bool()].tolist()
        for row, mask in zip(batch["completion_ids_BC"], batch["completion_mask_BC"], strict=True)
    ]
    loss = trainer.compute_loss(model, batch)
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)
    loss.backward()
    student = model.base_model.model
    before = sequence_logps(student, prompts, ids).sum()
    with torch.no_grad():
        for weight in (w for w in model.parameters() if w.grad is not None):
            weight -= weight.grad * 0.05 / weight.grad.norm().clamp(min=1e-9)
    assert sequence_logps(student, prompts, ids).sum() > before
    model.zero_grad()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)


@pytest.mark.parametrize("method", ["kd", "opd"])
def test_distillation_is_zero_where_student_and_teacher_have_the_same_prompt(
    model, prompts, trainer_of, method
):
    """With a fresh adapter the student differs from its teacher by the prompt alone."""
    trainer = trainer_of(method)
    others = model.base_model.model.text_prompts(["Why do cats purr?", "What is rust?"])
    same = trainer.compute_loss(model, batch_of(model, prompts, prompts))
    different = trainer.compute_loss(model, batch_of(model, prompts, others))
    assert same.item() == pytest.approx(0, abs=1e-5) and different.item() > 0.001
    different.backward()
    assert any(gradient.any() for gradient in lora_b_gradients(model))
    model.zero_grad()
