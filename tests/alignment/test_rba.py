"""What reinforcement learns from beside the rewards of whole answers, and that a bad reward raises an alarm."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods.rba import RbaTrainer
from speech_rba.alignment.reward_hacking import training_checks
from speech_rba.compute.device import fast_dtype
from speech_rba.config import load_params
from speech_rba.model.logps import completion_logps, pad_right, sequence_logps
from speech_rba.model.student import Student


@pytest.fixture(scope="module")
def trainer(small_student, hypotheses, questions, tmp_path_factory) -> RbaTrainer:
    """Over three clips of which each is taken for another question, with an adapter that has learned something."""
    own = Student(small_student.config).eval()
    written = own.text_prompts([f"{q} Why?" for q in questions[:3]])
    spoken = [own.bridge.cross(h, 8, 1.0) for h in hypotheses[:3]]
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
    found = completion_logps(trainer.teacher_hidden(unique, owners, ids, mask), model.head, ids, mask)[0].sum(
        1
    )
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
    assert any(
        w.grad is not None and w.grad.any()
        for name, w in trainer.model.named_parameters()
        if "lora_B" in name
    )


ROUNDING = 2e-3  # nats a token: above what rounding logits to bfloat16 puts between two ways to compute them


def first_step(student, hypotheses, folder, filled: float, **settings) -> tuple[RbaTrainer, dict, dict]:
    """The trainer, what it sampled and what it logged, with every entry of the adapter's B at `filled`."""
    spoken = [student.bridge.cross(h, 8, 1.0) for h in hypotheses[:2]]
    examples = [Example(None, None, s, s, []) for s in spoken]
    model = get_peft_model(student, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(filled)
    args = GRPOConfig(str(folder), num_generations=4, per_device_train_batch_size=8, steps_per_generation=1,
                      max_completion_length=16, report_to=[], use_cpu=True, bf16=False, **settings)  # fmt: skip
    trainer = RbaTrainer(
        model, examples, args, [lambda completion_ids, **_: [float(i[0]) for i in completion_ids]], 0
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    scored = trainer._generate_and_score_completions([{"prompt": str(i // 4)} for i in range(8)])
    trainer._compute_loss(trainer.model, scored)
    return trainer, scored, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def logps_of(trainer, scored, temperature: float) -> torch.Tensor:
    """Of the sampled tokens, from whole tables of logits."""
    student, owners = trainer.model.base_model.model, scored["prompt_ids"][:, 0]
    answers = {"completion_ids_BC": scored["completion_ids"], "completion_mask_BC": scored["completion_mask"]}
    with torch.no_grad():
        hidden = student([e.spoken for e in trainer.examples], owners_B=owners, **answers)
        logits = student.head(hidden).float() / temperature
    ids = scored["completion_ids"][scored["completion_mask"].bool()]
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_at_the_first_step_the_policy_is_what_was_sampled(small_student, hypotheses, tmp_path, temperature):
    """At its temperature, so every ratio is 1."""
    own = Student(small_student.config).eval()
    trainer, scored, logged = first_step(own, hypotheses, tmp_path, 0.05, temperature=temperature, beta=0.0)
    kept = scored["completion_mask"].bool()
    sampled, policy = scored["old_per_token_logps"][kept], trainer.policy_logps[kept]
    assert torch.allclose(policy, logps_of(trainer, scored, temperature), atol=1e-3)
    assert (policy - logps_of(trainer, scored, 1.5)).abs().mean() > 0.1
    assert torch.allclose((policy - sampled).exp(), torch.ones(len(policy)), atol=1e-3)
    assert logged["sampling/kl"] < 1e-6 and logged["clip_ratio/region_mean"] == 0


@pytest.mark.parametrize("filled", [0.0, 0.05])
def test_kl_is_measured_from_the_student_before_alignment(small_student, hypotheses, tmp_path, filled):
    """Also where a warm start or a champion has filled the adapter; TRL would measure from there."""
    own = Student(small_student.config).eval()
    trainer, scored, logged = first_step(own, hypotheses, tmp_path, filled, temperature=0.5, beta=0.1)
    policy = logps_of(trainer, scored, 0.5)
    with trainer.model.disable_adapter():
        ratio = logps_of(trainer, scored, 0.5) - policy
    expected = (ratio.exp() - 1 - ratio).mean().item()
    assert logged["kl"] == pytest.approx(expected, rel=0.01, abs=1e-6)
    assert expected > 1e-3 if filled else expected == 0
    assert list(trainer.model.peft_config) == ["default"]


@pytest.mark.parametrize("filled", [0.0, 1e-4])
def test_the_first_step_where_training_is_fast(small_student, hypotheses, tmp_path, filled):
    """In bfloat16 on a processor that multiplies it."""
    own = Student(small_student.config, fast_dtype()).eval()
    _, _, logged = first_step(own, hypotheses, tmp_path, filled, temperature=1.0, beta=0.1)
    assert 0 <= logged["sampling/kl"] + 1e-7 < (2e-4 if fast_dtype() == torch.float32 else ROUNDING)
    assert logged["clip_ratio/region_mean"] < 0.02
    assert (abs(logged["kl"]) > 1e-10) if filled else logged["kl"] == 0


def test_a_reward_that_pays_for_length_raises_the_alarm(student, hypotheses, tmp_path):
    own = Student(student.config).eval()
    spoken = [own.bridge.cross(h, 8, 1.0) for h in hypotheses[:2]]
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
    limits = load_params(Path(__file__).parents[2] / "params.yaml").evaluate.reward_hacking
    raised = {check["name"] for check in training_checks(steps, limits) if not check["passed"]}
    assert raised & {"length_drift", "cut_off"}
