"""Reinforced Behavior Alignment (arXiv 2509.03526) on TRL's GRPO trainer.

TRL knows no audio. Each prompt goes through it as one token, the place of its example in `examples`: no buffer,
split or shuffle of TRL can then part a clip from its completions, and log-probabilities are computed from that
clip's soft tokens.

The policy is the distribution that is sampled, at `temperature`; a ratio is that of the policy to the sampler's own
log-probability, so GRPO's loss also corrects for the two rounding differently in bfloat16. How far they are apart is
logged as `sampling/kl`. The KL of `beta` is to the student without adapter, whatever the adapter began from.

A reward judges a whole answer, by one number; the teacher, who reads what the student hears, can also tell at each
token of it what could be said instead. With `dense` above 0 the loss has, beside GRPO's, the KL divergence from the
teacher on what the student says, over the whole vocabulary and at temperature 1, as in on-policy distillation (opd.py).
"""

import functools
from collections.abc import Callable
from statistics import fmean

import torch
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from speech_rba.alignment import rewards
from speech_rba.alignment.examples import Example
from speech_rba.alignment.sampling import sampler
from speech_rba.config import Rba
from speech_rba.model.embedder import load_embedder
from speech_rba.model.logps import completion_logps, divergence, sampling_kl
from speech_rba.model.speech_student import SpeechStudent


class RbaTrainer(GRPOTrainer):
    """GRPO whose rollouts and log-probabilities start from soft tokens, each prompt computed once for its group."""

    def __init__(
        self,
        model: PeftModel,
        examples: list[Example],
        args: GRPOConfig,
        reward_funcs: list[Callable],
        dense: float,
    ):
        """`dense` weighs the divergence from the teacher, in nats a token, against GRPO's loss."""
        from datasets import Dataset

        self.examples, self.dense = examples, dense
        super().__init__(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(len(examples))]),
            processing_class=student_of(model).tokenizer,
            rollout_func=rollout,
        )
        if "ref" in model.peft_config:  # TRL's copy of the adapter as it is now, to measure KL from
            model.delete_adapter("ref")

    def _generate_and_score_completions(self, inputs):
        scored = super()._generate_and_score_completions(inputs)
        return scored | {"old_per_token_logps": scored["sampling_per_token_logps"]}

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **_
    ):
        places, owners = input_ids[:, 0].unique(return_inverse=True)
        prompts = [self.examples[i].spoken for i in places.tolist()]
        ids, mask = input_ids[:, 1:], attention_mask[:, 1:]
        hidden = model(prompts=prompts, owners_B=owners, completion_ids_BC=ids, completion_mask_BC=mask)
        head = self.accelerator.unwrap_model(model).head
        if (
            self.dense and torch.is_grad_enabled()
        ):  # the update's call, whose loss `_compute_loss` adds this to
            self.divergence = divergence(
                head(hidden), head(self.teacher_hidden(places, owners, ids, mask))
            ).mean()
        logps, entropies = completion_logps(hidden, head, ids, mask, self.temperature)
        if torch.is_grad_enabled():
            self.policy_logps = logps.detach()
        return logps, entropies if compute_entropy else None, None

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        kept = inputs["completion_mask"].bool()
        apart = sampling_kl(inputs["sampling_per_token_logps"][kept], self.policy_logps[kept])
        self._metrics["train"]["sampling/kl"].append(apart)
        if not self.dense:
            return loss
        self._metrics["train"]["teacher_divergence"].append(self.divergence.item())
        return loss + self.dense * self.divergence / self.current_gradient_accumulation_steps

    @torch.no_grad()
    def teacher_hidden(self, places: torch.Tensor, owners_B, ids_BC, mask_BC) -> torch.Tensor:
        """The hidden states (N, D) before the same tokens of the teacher: the student without adapter, who reads."""
        model = self.accelerator.unwrap_model(self.model)
        written = [self.examples[i].written for i in places.tolist()]
        with model.disable_adapter():
            return model(
                prompts=written, owners_B=owners_B, completion_ids_BC=ids_BC, completion_mask_BC=mask_BC
            )


def student_of(model: PeftModel) -> SpeechStudent:
    return model.base_model.model


def rollout(prompts: list[str], trainer: RbaTrainer) -> dict:
    """Sampled answers to each prompt; equal neighbours are one group, whose prompt is computed once."""
    groups = prompts[:: trainer.num_generations]
    assert prompts == [p for p in groups for _ in range(trainer.num_generations)]
    logps: list[list[float]] = []
    with sampler(trainer.accelerator.unwrap_model(trainer.model)) as student:
        completions = student.answer(
            [trainer.examples[int(p)].spoken for p in groups],
            max_new_tokens=trainer.args.max_completion_length,
            temperature=trainer.args.temperature,
            top_p=1.0,
            seed=trainer.args.seed * 1_000_003 + trainer.state.global_step,  # the same after a resume
            batch_size=len(prompts),
            num_generations=trainer.num_generations,
            logps=logps,
        )
    # of the answers themselves, whichever rewards count: reward_hacking.py reads it
    repeated = fmean(-rewards.repetition(ids) for ids in completions)
    trainer._metrics["train"]["completions/repetition"].append(repeated)
    return {"prompt_ids": [[int(p)] for p in prompts], "completion_ids": completions, "logprobs": logps}


def reward_functions(model: PeftModel, examples: list[Example], embedder: str) -> dict[str, Callable]:
    """The rewards by name, in TRL's form: each takes a batch and returns one number a completion.

    `embedder` is an asset name, loaded when first used.
    """
    student = student_of(model)
    eos = student.tokenizer.eos_token_id
    of = lambda prompts: [examples[int(p)] for p in prompts]  # noqa: E731
    embed = functools.cache(lambda: load_embedder(embedder))

    def teacher_pmi(prompts, completion_ids, **_):
        with model.disable_adapter():
            return rewards.teacher_pmi(student, [e.written for e in of(prompts)], completion_ids)

    def teacher_similarity(prompts, completions, **_):
        return rewards.teacher_similarity(embed(), completions, [e.row.completion for e in of(prompts)])

    def length(prompts, completion_ids, **_):
        return [
            rewards.length(len(ids), len(e.completion_ids), ids[-1] == eos)
            for ids, e in zip(completion_ids, of(prompts), strict=True)
        ]

    def repetition(completion_ids, **_):
        return [rewards.repetition(ids) for ids in completion_ids]

    def bleu(prompts, completions, **_):
        return [rewards.bleu(c, e.row.completion) for c, e in zip(completions, of(prompts), strict=True)]

    def chrf(prompts, completions, **_):
        return [rewards.chrf(c, e.row.completion) for c, e in zip(completions, of(prompts), strict=True)]

    def instructions(prompts, completions, **_):
        return [
            rewards.instructions(c, e.row.instructions) for c, e in zip(completions, of(prompts), strict=True)
        ]

    return {
        f.__name__: f for f in (teacher_pmi, teacher_similarity, length, repetition, bleu, chrf, instructions)
    }


def weighted(functions: dict[str, Callable], settings: Rba) -> tuple[list[Callable], list[float]]:
    """The reward functions that count and their weights, in the same order."""
    weights = {name: weight for name, weight in settings.reward_weights.model_dump().items() if weight}
    return [functions[name] for name in weights], list(weights.values())
