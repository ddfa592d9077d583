"""Knowledge distillation: at each token of the teacher's answers, the teacher's whole distribution is to be learned."""

import torch
from speech_rba.alignment.methods import sft

from speech_rba.alignment.examples import Example
from speech_rba.alignment.trainer import DistillationTrainer
from speech_rba.model.logps import divergence


class KdTrainer(DistillationTrainer):
    """The loss is KL(teacher || student); the teacher reads and has no adapter."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        written = inputs.pop("written")
        unwrapped = self.accelerator.unwrap_model(model)
        with torch.no_grad(), unwrapped.disable_adapter():
            teacher = unwrapped(**inputs | {"prompts": written})
        loss = divergence(unwrapped.head(teacher), unwrapped.head(model(**inputs))).mean()
        return (loss, {}) if return_outputs else loss


def collate(examples: list[Example]) -> dict:
    """As for supervised fine-tuning, and the queries as the teacher reads them."""
    return sft.collate(examples) | {"written": [e.written for e in examples]}
