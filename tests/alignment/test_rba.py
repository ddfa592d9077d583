"""The loss of reinforcement, its first step, and the reward-hacking checks on a reward that can be gamed."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from trl import GRPOConfig

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods.rba import RbaTrainer
from speech_rba.alignment.reward_hacking import training_checks
from speech_rba.compute.device import fast_dtype
from speech_rba.config import load_params
from speech_rba.model.logps import completion_logps, pad_right, sequence_logps
from speech_rba.model.student import Student
from tests.align_inputs import ROOT

ROUNDING = 2e-3  # nats a token: above what rounding logits to bfloat16 puts between two ways to compute them


def adapted(student: Student, b_value: float, modules: tuple[str, ...]) -> PeftModel:
    """The student with an adapter whose B matrices have `b_value` everywhere."""
    model = get_peft_model(student, LoraConfig(r=4, target_modules=list(modules)))
    set_b(model, b_value)
    return model


def set_b(model: PeftModel, value: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(value)


def grpo_config(folder, **changes) -> GRPOConfig:
    values = {"max_completion_length": 16, "report_to": [], "use_cpu": True, "bf16": False} | changes
    return GRPOConfig(str(folder), **values)


@pytest.fixture(scope="module")
def trainer(small_student, hypotheses, questions, tmp_path_factory) -> RbaTrainer:
    """Over three clips whose written queries differ from what was spoken, with an adapter that is not
    fresh."""
    student = Student(small_student.config).eval()
    written = student.text_prompts([f"{question} Why?" for question in questions[:3]])
    spoken = [student.bridge.cross(h, 8, 1.0) for h in hypotheses[:3]]
    examples = [Example(None, None, s, w, []) for s, w in zip(spoken, written, strict=True)]
    model = adapted(student, 0.0, ("q_proj", "v_proj"))
    args = grpo_config(
        tmp_path_factory.mktemp("rba"), beta=0.0, num_generations=2, per_device_train_batch_size=2
    )
    rba_trainer = RbaTrainer(model, examples, args, [lambda prompts, **_: [0.0] * len(prompts)], 0.5)
    set_b(model, 0.1)
    return rba_trainer


def test_the_teacher_is_the_student_without_adapter_prompted_with_text(trainer):
    places, texts = [2, 0, 2], ["Paris.", "It is a large river.", "No"]
    completions = trainer.processing_class(texts).input_ids
    ids, mask = pad_right(completions, 2)
    model = trainer.model.eval()
    unique, owners = torch.tensor(places).unique(return_inverse=True)
    answers = {"owners_B": owners, "completion_ids_BC": ids, "completion_mask_BC": mask}
    hidden = trainer.teacher_hidden([trainer.examples[place] for place in unique.tolist()], answers)
    logps = completion_logps(hidden, model.head, ids, mask)[0].sum(1)
    with model.disable_adapter():
        written = [trainer.examples[place].written for place in places]
        expected = sequence_logps(model.base_model.model, written, completions)
    assert torch.allclose(logps, expected, atol=1e-3)


def test_with_equal_rewards_the_loss_is_the_divergence_from_the_teacher(trainer):
    """GRPO's part is 0 for a group with equal rewards; half of KL(student || teacher) a token is left."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    scored = trainer._generate_and_score_completions([{"prompt": "1"}, {"prompt": "1"}])
    loss = trainer._compute_loss(trainer.model, scored)
    expected = divergence_of(trainer, trainer.examples[1], scored)
    assert expected > 0.01 and loss.item() == pytest.approx(0.5 * expected, rel=1e-3)
    loss.backward()
    weights = [weight for name, weight in trainer.model.named_parameters() if "lora_B" in name]
    assert any(weight.grad is not None and weight.grad.any() for weight in weights)


def divergence_of(trainer: RbaTrainer, example: Example, scored: dict) -> float:
    """KL(student || teacher) a token on the two sampled answers, from whole tables of probabilities."""
    student = trainer.model.base_model.model
    ids, mask = scored["completion_ids"], scored["completion_mask"]
    answers = {"completion_ids_BC": ids, "completion_mask_BC": mask, "owners_B": torch.tensor([0, 0])}
    with torch.no_grad():
        ours = student.head(student([example.spoken], **answers)).log_softmax(-1)
        with trainer.model.disable_adapter():
            theirs = student.head(student([example.written], **answers)).log_softmax(-1)
    return (ours.exp() * (ours - theirs)).sum(-1).mean().item()


def first_step(
    student: Student, hypotheses, folder, b_value: float, **settings
) -> tuple[RbaTrainer, dict, dict]:
    """The trainer, what it sampled and what it logged, with every entry of the adapter's B at `b_value`."""
    spoken = [student.bridge.cross(h, 8, 1.0) for h in hypotheses[:2]]
    examples = [Example(None, None, s, s, []) for s in spoken]
    model = adapted(student, b_value, ("q_proj", "v_proj", "down_proj"))
    args = grpo_config(
        folder, num_generations=4, per_device_train_batch_size=8, steps_per_generation=1, **settings
    )

    def first_token(completion_ids, **_) -> list[float]:
        return [float(ids[0]) for ids in completion_ids]

    trainer = RbaTrainer(model, examples, args, [first_token], 0)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    scored = trainer._generate_and_score_completions([{"prompt": str(i // 4)} for i in range(8)])
    trainer._compute_loss(trainer.model, scored)
    return trainer, scored, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def logps_of(trainer: RbaTrainer, scored: dict, temperature: float) -> torch.Tensor:
    """Log-probabilities of the sampled tokens, from whole tables of logits."""
    student, owners = trainer.model.base_model.model, scored["prompt_ids"][:, 0]
    answers = {"completion_ids_BC": scored["completion_ids"], "completion_mask_BC": scored["completion_mask"]}
    with torch.no_grad():
        hidden = student([example.spoken for example in trainer.examples], owners_B=owners, **answers)
        logits = student.head(hidden).float() / temperature
    ids = scored["completion_ids"][scored["completion_mask"].bool()]
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_at_the_first_step_every_ratio_of_policy_to_sampler_is_1(
    small_student, hypotheses, tmp_path, temperature
):
    """The policy is the distribution at the temperature of sampling."""
    student = Student(small_student.config).eval()
    trainer, scored, logged = first_step(
        student, hypotheses, tmp_path, 0.05, temperature=temperature, beta=0.0
    )
    kept = scored["completion_mask"].bool()
    sampled, policy = scored["old_per_token_logps"][kept], trainer.policy_logps[kept]
    assert torch.allclose(policy, logps_of(trainer, scored, temperature), atol=1e-3)
    assert (policy - logps_of(trainer, scored, 1.5)).abs().mean() > 0.1
    assert torch.allclose((policy - sampled).exp(), torch.ones(len(policy)), atol=1e-3)
    assert logged["sampling/kl"] < 1e-6 and logged["clip_ratio/region_mean"] == 0


@pytest.mark.parametrize("b_value", [0.0, 0.05])
def test_kl_is_measured_from_the_student_before_alignment(small_student, hypotheses, tmp_path, b_value):
    """Also where the adapter starts from a warm start or a champion; TRL would measure from there."""
    student = Student(small_student.config).eval()
    trainer, scored, logged = first_step(student, hypotheses, tmp_path, b_value, temperature=0.5, beta=0.1)
    policy = logps_of(trainer, scored, 0.5)
    with trainer.model.disable_adapter():
        log_ratio = logps_of(trainer, scored, 0.5) - policy
    expected = (log_ratio.exp() - 1 - log_ratio).mean().item()
    assert logged["kl"] == pytest.approx(expected, rel=0.01, abs=1e-6)
    assert expected > 1e-3 if b_value else expected == 0
    assert list(trainer.model.peft_config) == ["default"]


@pytest.mark.parametrize("b_value", [0.0, 1e-4])
def test_in_the_fast_dtype_the_first_step_differs_by_rounding_alone(
    small_student, hypotheses, tmp_path, b_value
):
    student = Student(small_student.config, fast_dtype()).eval()
    _, _, logged = first_step(student, hypotheses, tmp_path, b_value, temperature=1.0, beta=0.1)
    limit = 2e-4 if fast_dtype() == torch.float32 else ROUNDING
    assert 0 <= logged["sampling/kl"] + 1e-7 < limit
    assert logged["clip_ratio/region_mean"] < 0.02
    assert (abs(logged["kl"]) > 1e-10) if b_value else logged["kl"] == 0


def test_a_reward_that_repeating_earns_fails_a_reward_hacking_check(small_student, hypotheses, tmp_path):
    """A reward for small token ids: the policy collapses onto a few frequent tokens."""
    student = Student(small_student.config).eval()
    spoken = [student.bridge.cross(h, 8, 1.0) for h in hypotheses[:2]]
    model = adapted(student, 0.0, ("q_proj", "v_proj", "down_proj"))
    args = grpo_config(
        tmp_path,
        beta=0.0,
        num_generations=4,
        per_device_train_batch_size=8,
        max_steps=5,
        steps_per_generation=1,
        learning_rate=5e-2,
        logging_steps=1,
        save_strategy="no",
        gradient_checkpointing=False,
    )

    def small_ids(completion_ids, **_) -> list[float]:
        return [-sum(ids) / len(ids) / 1000 for ids in completion_ids]

    trainer = RbaTrainer(model, [Example(None, None, s, s, []) for s in spoken], args, [small_ids], 0.0)
    trainer.train()
    steps = [row for row in trainer.state.log_history if "reward" in row]
    limits = load_params(ROOT / "params.yaml").evaluate.reward_hacking
    failed = {check["name"] for check in training_checks(steps, limits) if not check["passed"]}
    assert steps[-1]["reward"] > steps[0]["reward"] and "repetition" in failed
