"""Reinforced Behavior Alignment (arXiv 2509.03526) on TRL's GRPO trainer, after a warm start by sft.

TRL has no audio. Each prompt passes through it as one token, the place of its example in `examples`: no
buffer, split or shuffle of TRL can separate a clip from its completions, and log-probabilities are computed
from that clip's soft tokens.

The policy is the distribution that is sampled, at `temperature`. A ratio divides the policy by the sampler's
log-probability, so GRPO's loss also corrects for their different rounding in bfloat16; their divergence is
logged as `sampling/kl`. The KL of `beta` is to the student without adapter, whatever the adapter starts from.

A reward gives one number to a whole answer. The teacher, prompted with the query's text, also gives a
distribution at each of its tokens: with `kl_coef` above 0 the loss adds KL(student || teacher) on the sampled
answers, over the whole vocabulary and at temperature 1, as in on-policy distillation (opd.py).
"""

from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods import sft
from speech_rba.alignment.rewards import distinct_share, trl_rewards
from speech_rba.alignment.sampling import sampling_student, unwrapped_student
from speech_rba.alignment.trainer import Job, Phase
from speech_rba.config import Align
from speech_rba.errors import UserError
from speech_rba.model.logps import completion_logps, divergence, sampling_kl


class Method:
    def phases(self, job: Job) -> list[Phase]:
        align = job.params.align
        num_samples = samples_per_step(align)
        if len(job.examples) < (needed := num_samples // align.rba.num_generations):
            raise UserError(
                f"a step of rba takes {needed} clips, and {len(job.examples)} have enough ASR uncertainty: "
                "lower align.per_device_train_batch_size or base.min_asr_uncertainty, or raise "
                "align.rba.num_generations"
            )
        warm_start = align.rba.warm_start_steps, align.sft.learning_rate
        reinforcement = align.rba.max_steps, align.rba.learning_rate
        return [
            Phase("sft", sft.Method().build_trainer, *warm_start, align.per_device_train_batch_size),
            Phase("rba", self.build_trainer, *reinforcement, num_samples),
        ]

    def build_trainer(self, job: Job, arguments: dict[str, Any]) -> "RbaTrainer":
        rba, params = job.params.align.rba, job.params
        weights = {name: weight for name, weight in rba.reward_weights.model_dump().items() if weight}
        args = GRPOConfig(
            **arguments,
            num_generations=rba.num_generations,
            steps_per_generation=1,
            temperature=rba.temperature,
            beta=rba.beta,
            max_completion_length=params.align.max_completion_tokens,
            reward_weights=list(weights.values()),
            gradient_checkpointing=False,
        )
        rewards = trl_rewards(list(weights), job.model, job.examples, params.assets.embedder)
        trainer = RbaTrainer(job.model, job.examples, args, rewards, rba.kl_coef)
        trainer.add_callback(job.log)
        return trainer


def samples_per_step(align: Align) -> int:
    """Completions of a step of reinforcement; groups of `num_generations` fill it (config/)."""
    return 2 * align.per_device_train_batch_size


class RbaTrainer(GRPOTrainer):
    """GRPO whose rollouts and log-probabilities start from soft tokens; a prompt is computed once for its
    group."""

    def __init__(
        self,
        model: PeftModel,
        examples: list[Example],
        args: GRPOConfig,
        rewards: list,
        kl_coef: float,
    ):
        """`kl_coef` weighs KL(student || teacher), in nats a token, against GRPO's loss."""
        self.examples, self.kl_coef = examples, kl_coef
        super().__init__(
            model=model,
            reward_funcs=rewards,
            args=args,
            train_dataset=Dataset.from_list([{"prompt": str(place)} for place in range(len(examples))]),
            processing_class=unwrapped_student(model).tokenizer,
            rollout_func=rollout,
        )
        if (
            "ref" in model.peft_config
        ):  # TRL's copy of the adapter as it starts, which it would measure KL from
            model.delete_adapter("ref")

    def _generate_and_score_completions(self, inputs):
        scored = super()._generate_and_score_completions(inputs)
        return scored | {"old_per_token_logps": scored["sampling_per_token_logps"]}

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **_
    ):
        places, owners = input_ids[:, 0].unique(return_inverse=True)
        examples = [self.examples[place] for place in places.tolist()]
        ids, mask = input_ids[:, 1:], attention_mask[:, 1:]
        answers = {"owners_B": owners, "completion_ids_BC": ids, "completion_mask_BC": mask}
        hidden = model(prompts=[example.spoken for example in examples], **answers)
        head = self.accelerator.unwrap_model(model).head
        is_update = torch.is_grad_enabled()
        if self.kl_coef and is_update:  # `_compute_loss` adds it to the loss
            teacher_hidden = self.teacher_hidden(examples, answers)
            self.divergence = divergence(head(hidden), head(teacher_hidden)).mean()
        logps, entropies = completion_logps(hidden, head, ids, mask, self.temperature)
        if is_update:
            self.policy_logps = logps.detach()
        return logps, entropies if compute_entropy else None, None

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        kept = inputs["completion_mask"].bool()
        sampler_logps_N = inputs["sampling_per_token_logps"][kept]
        self._metrics["train"]["sampling/kl"].append(sampling_kl(sampler_logps_N, self.policy_logps[kept]))
        if not self.kl_coef:
            return loss
        self._metrics["train"]["teacher_divergence"].append(self.divergence.item())
        return loss + self.kl_coef * self.divergence / self.current_gradient_accumulation_steps

    @torch.no_grad()
    def teacher_hidden(self, examples: list[Example], answers: dict[str, torch.Tensor]) -> torch.Tensor:
        """The teacher's hidden states (N, D) before the N completion tokens of `answers` (as for the
        student).

        The teacher is the student without adapter, prompted with text.
        """
        model = self.accelerator.unwrap_model(self.model)
        with model.disable_adapter():
            return model(prompts=[example.written for example in examples], **answers)


def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list]:
    """Sampled answers to each prompt; equal neighbours are one group, whose prompt is computed once."""
    args, num_generations = trainer.args, trainer.num_generations
    assert isinstance(trainer, RbaTrainer) and isinstance(args, GRPOConfig) and num_generations
    groups = prompts[::num_generations]
    assert prompts == [prompt for prompt in groups for _ in range(num_generations)]
    logps: list[list[float]] = []
    with sampling_student(trainer.accelerator.unwrap_model(trainer.model)) as student:
        completions = student.answer(
            [trainer.examples[int(prompt)].spoken for prompt in groups],
            max_new_tokens=args.max_completion_length,
            temperature=args.temperature,
            top_p=1.0,
            seed=args.seed * 1_000_003 + trainer.state.global_step,  # the same after a resume
            batch_size=len(prompts),
            num_generations=num_generations,
            logps=logps,
        )
    # whichever rewards count: reward_hacking.py checks it
    repeated = fmean(1 - distinct_share(ids) for ids in completions)
    trainer._metrics["train"]["completions/repetition"].append(repeated)
    return {
        "prompt_ids": [[int(prompt)] for prompt in prompts],
        "completion_ids": completions,
        "logprobs": logps,
    }
