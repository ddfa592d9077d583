"""The advantage of a token: the reward of its answer, and what the teacher that reads thinks of it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig

from speech_rba.model.logps import pad_right, sequence_logps
from speech_rba.model.student import Student
from speech_rba.training.rba import MAX_LOG_RATIO, RbaTrainer
from speech_rba.training.store import Example


@pytest.fixture(scope="module")
def trainer(student, heard, questions, tmp_path_factory) -> RbaTrainer:
    """Over three clips of which each is taken for another question, with an adapter that has learned something."""
    own = Student(student.config).eval()
    written = own.read([f"{q} Why?" for q in questions[:3]])
    spoken = [own.bridge.cross(h, 8, 1.0) for h in heard[:3]]
    examples = [Example(None, None, s, w, []) for s, w in zip(spoken, written, strict=True)]
    model = get_peft_model(own, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    args = GRPOConfig(str(tmp_path_factory.mktemp("rba")), beta=0.1, num_generations=2, per_device_train_batch_size=2,
                      report_to=[], use_cpu=True, bf16=False)  # fmt: skip
    made = RbaTrainer(model, examples, args, [lambda prompts, **_: [0.0] * len(prompts)], 0.5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.default" in name:
                weight.fill_(0.01)
    return made


@torch.no_grad()
def test_a_token_is_judged_by_the_teacher_that_reads_against_the_student_that_hears(trainer):
    places, texts = [2, 0, 2], ["Paris.", "It is a large river.", "No"]
    completions = trainer.processing_class(texts).input_ids
    ids, mask = pad_right(completions, 2)
    model = trainer.model.eval()
    ratios = trainer.teacher_log_ratios(torch.tensor(places), ids, mask)
    examples = [trainer.examples[i] for i in places]
    student = model.base_model.model
    with model.disable_adapter():
        teacher = sequence_logps(student, [e.written for e in examples], completions)
    heard = sequence_logps(student, [e.spoken for e in examples], completions)
    assert ratios.shape == ids.shape and ratios.abs().max() <= MAX_LOG_RATIO and not ratios[mask == 0].any()
    inside = ratios.abs().max(1).values < MAX_LOG_RATIO  # where nothing was cut off, tokens add up to answers
    assert inside.any() and torch.allclose(ratios.sum(1)[inside], (teacher - heard)[inside], atol=1e-3)
    assert not torch.allclose(teacher, heard, atol=0.1)


def test_equal_rewards_leave_the_teachers_part_of_the_advantage(trainer, monkeypatch):
    """A group with one reward teaches nothing in GRPO; here each token keeps half of its log-ratio."""
    trainer.model.train()
    scored = trainer._generate_and_score_completions([{"prompt": "1"}, {"prompt": "1"}])
    ratios = trainer.teacher_log_ratios(
        scored["prompt_ids"][:, -1], scored["completion_ids"], scored["completion_mask"]
    )
    assert scored["prompt_ids"][:, -1].tolist() == [1, 1]
    assert ratios.any() and torch.allclose(scored["advantages"], 0.5 * ratios, atol=1e-4)
