"""Supervised fine-tuning: cross-entropy on the teacher's answers (sequence-level distillation)."""

import torch

from speech_rba.alignment.examples import Example
from speech_rba.alignment.trainer import DistillationTrainer
from speech_rba.model.logps import pad_right, token_logps


class SftTrainer(DistillationTrainer):
    """The loss is the cross-entropy of the teacher's words, given prompts of soft tokens."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        kept = inputs["completion_mask_BC"].bool()
        head = self.accelerator.unwrap_model(model).head
        loss = -token_logps(model(**inputs), head, inputs["completion_ids_BC"][kept])[0].mean()
        return (loss, {}) if return_outputs else loss


def collate(examples: list[Example]) -> dict:
    """The student's arguments for a batch: one prompt and one completion an example."""
    completions = [e.completion_ids for e in examples]
    ids, mask = pad_right(completions, completions[0][-1])
    return {
        "prompts": [e.spoken for e in examples],
        "owners_B": torch.arange(len(examples)),
        "completion_ids_BC": ids,
        "completion_mask_BC": mask,
    }
