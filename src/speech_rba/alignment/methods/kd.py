"""Knowledge distillation: the teacher's whole distribution at each token of the teacher's answers."""

from typing import Any

import torch

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods import sft
from speech_rba.alignment.trainer import DistillationTrainer, Job, Phase
from speech_rba.model.logps import divergence


class Method:
    def phases(self, job: Job) -> list[Phase]:
        align = job.params.align
        schedule = align.kd.max_steps, align.kd.learning_rate
        return [Phase("kd", self.build_trainer, *schedule, align.per_device_train_batch_size)]

    def build_trainer(self, job: Job, arguments: dict[str, Any]) -> DistillationTrainer:
        return DistillationTrainer(job, arguments, collate, loss)


def collate(examples: list[Example]) -> dict[str, Any]:
    """As for supervised fine-tuning, with the teacher's prompts as `written`."""
    return sft.collate(examples) | {"written": [example.written for example in examples]}


def loss(trainer: DistillationTrainer, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """KL(teacher || student); the teacher is the student without adapter, prompted with text."""
    peft_model, spoken = trainer.peft_model, {k: v for k, v in batch.items() if k != "written"}
    with torch.no_grad(), peft_model.disable_adapter():
        teacher_hidden = peft_model(**spoken | {"prompts": batch["written"]})
    return divergence(peft_model.head(teacher_hidden), peft_model.head(model(**spoken))).mean()
