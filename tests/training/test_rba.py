"""What reinforcement learns from beside the rewards of whole answers, and that a bad reward raises an alarm."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig

from speech_rba.evaluation.alarms import training_alarms
from speech_rba.model.logps import completion_logps, pad_right, sequence_logps
from speech_rba.model.student import Student
from speech_rba.params import load_params
from speech_rba.training.rba import RbaTrainer
from speech_rba.training.store import Example


@pytest.fixture(scope="module")
def trainer(small_student, heard, questions, tmp_path_factory) -> RbaTrainer:
    """Over three clips of which each is taken for another question, with an adapter that has learned something."""
    own = Student(small_student.config).eval()
    written = own.read([f"{q} Why?" for q in questions[:3]])
    spoken = [own.bridge.cross(h, 8, 1.0) for h in heard[:3]]
    examples = [Example(None, None, s, w, []) for s, w in zip(spoken, written, strict=True)]
    model = get_peft_model(own, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    args = GRPOConfig(str(tmp_path_factory.mktemp("rba")), beta=0.0, num_generations=2, per_device_train_batch_size=2,
                      max_completion_length=16, report_to=[], use_cpu=True, bf16=False)  # fmt: skip
    made = RbaTrainer(model, examples, args, [lambda prompts, **_: [0.0] * len(prompts)], 0.5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.default" in name:
                weight.fill_(0.1)
    return made


def test_the_teacher_is_the_student_without_adapter_that_reads(trainer):
    places, texts = [2, 0, 2], ["Paris.", "It is a large river.", "No"]
    completions = trainer.processing_class(texts).input_ids
    ids, mask = pad_right(completions, 2)
    model = trainer.model.eval()
    unique, owners = torch.tensor(places).unique(return_inverse=True)
    found = completion_logps(trainer.teacher_hidden(unique, owners, ids, mask), model.head, ids, mask)[0].sum(1)
    with model.disable_adapter():
        written = [trainer.examples[i].written for i in places]
        expected = sequence_logps(model.base_model.model, written, completions)
    assert torch.allclose(found, expected, atol=1e-3)


def test_equal_rewards_leave_the_divergence_from_the_teacher_as_the_loss(trainer):
    """A group with one reward teaches nothing in GRPO; here half of KL(student || teacher) a token is still to lose."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    scored = trainer._generate_and_score_completions([{"prompt": "1"}, {"prompt": "1"}])
    loss = trainer._compute_loss(trainer.model, scored)
    student, example = trainer.model.base_model.model, trainer.examples[1]
    kept = [[i for i, keep in zip(*row, strict=True) if keep] for row in
            zip(scored["completion_ids"].tolist(), scored["completion_mask"].tolist(), strict=True)]  # fmt: skip
    ids, mask = pad_right(kept, 2)
    answers = {"completion_ids_BC": ids, "completion_mask_BC": mask, "owners_B": torch.tensor([0, 0])}
    with torch.no_grad():
        ours = student.head(student([example.spoken], **answers)).log_softmax(-1)
        with trainer.model.disable_adapter():
            theirs = student.head(student([example.written], **answers)).log_softmax(-1)
    expected = (ours.exp() * (ours - theirs)).sum(-1).mean()
    assert expected > 0.01 and loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-3)
    loss.backward()
    assert any(w.grad is not None and w.grad.any() for name, w in trainer.model.named_parameters() if "lora_B" in name)


def test_a_reward_that_pays_for_length_raises_the_alarm(student, heard, tmp_path):
    own = Student(student.config).eval()
    spoken = [own.bridge.cross(h, 8, 1.0) for h in heard[:2]]
    examples = [Example(None, None, s, s, []) for s in spoken]
    model = get_peft_model(own, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    args = GRPOConfig(str(tmp_path), beta=0.0, num_generations=4, per_device_train_batch_size=8, max_steps=4,
                      steps_per_generation=1, learning_rate=1e-2, max_completion_length=16, report_to=[], use_cpu=True,
                      bf16=False, logging_steps=1, save_strategy="no", gradient_checkpointing=False)  # fmt: skip

    def pays_for_length(completion_ids, **_):
        return [float(len(ids)) for ids in completion_ids]

    trainer = RbaTrainer(model, examples, args, [pays_for_length], 0.0)
    trainer.train()
    steps = [row for row in trainer.state.log_history if "reward" in row]
    limits = load_params(Path(__file__).parents[2] / "params.yaml").evaluate.alarms
    raised = {check["name"] for check in training_alarms(steps, limits) if not check["passed"]}
    assert raised & {"length_drift", "cut_off"}
