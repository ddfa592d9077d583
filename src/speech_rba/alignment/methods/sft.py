"""Supervised fine-tuning: cross-entropy on the teacher's answers (sequence-level distillation)."""

from typing import Any

import torch

from speech_rba.alignment.examples import Example
from speech_rba.alignment.trainer import DistillationTrainer, Job, Phase
from speech_rba.model.logps import pad_right, token_logps


class Method:
    def phases(self, job: Job) -> list[Phase]:
        align = job.params.align
        schedule = align.sft.max_steps, align.sft.learning_rate
        return [Phase("sft", self.build_trainer, *schedule, align.per_device_train_batch_size)]

    def build_trainer(self, job: Job, arguments: dict[str, Any]) -> DistillationTrainer:
        return DistillationTrainer(job, arguments, collate, loss)


def collate(examples: list[Example]) -> dict[str, Any]:
    """The student's arguments for a batch: one prompt and one completion an example."""
    completions = [example.completion_ids for example in examples]
    ids, mask = pad_right(completions, completions[0][-1])
    return {
        "prompts": [example.spoken for example in examples],
        "owners_B": torch.arange(len(examples)),
        "completion_ids_BC": ids,
        "completion_mask_BC": mask,
    }


def loss(trainer: DistillationTrainer, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The cross-entropy of the teacher's tokens."""
    kept = batch["completion_mask_BC"].bool()
    ids_N = batch["completion_ids_BC"][kept]
    return -token_logps(model(**batch), trainer.peft_model.head, ids_N)[0].mean()
