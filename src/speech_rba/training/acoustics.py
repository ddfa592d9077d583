"""The acoustic projector learns to tell the language model how something was said, and nothing else.

On questions about the manner of speaking the loss is the cross-entropy of the answer; on other questions it is the KL
divergence from the student that does not hear how: what it answers to them must stay as it is.
"""

from dataclasses import dataclass, replace

import torch
from transformers import Trainer

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.language import fast_products
from speech_rba.model.logps import pad_right

NOTHING = torch.empty(0)


@dataclass(frozen=True)
class Told:
    """One clip and the answer to it; `about_manner` says which of the two losses it gets."""

    spoken: SoftTokens
    completion_ids: list[int]
    about_manner: bool


class AcousticTrainer(Trainer):
    """transformers' Trainer over Told examples."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        about_manner_B = inputs.pop("about_manner_B")
        ids, mask = inputs["completion_ids_BC"], inputs["completion_mask_BC"].bool()
        told = about_manner_B[:, None].expand_as(ids)[mask]
        with fast_products(self.args.device):
            logprobs = model(**inputs).float().log_softmax(-1)
            before = self.without_acoustics(model, inputs, (~about_manner_B).nonzero()[:, 0])
        loss = -logprobs[told].gather(1, ids[mask][told, None]).sum()
        if len(before):
            loss += (before.exp() * (before - logprobs[~told])).sum()
        loss = loss / len(logprobs)
        return (loss, {}) if return_outputs else loss

    @torch.no_grad()
    def without_acoustics(self, model, inputs: dict, rows: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (N, V) of the completion tokens of `rows` when only the words are heard."""
        plain = [replace(inputs["prompts"][row], acoustics=NOTHING) for row in rows.tolist()]
        ids, mask = inputs["completion_ids_BC"][rows], inputs["completion_mask_BC"][rows]
        return model(plain, torch.arange(len(plain)), ids, mask).float().log_softmax(-1) if plain else torch.empty(0)


def collate(examples: list[Told]) -> dict:
    """The student's arguments for a batch, and which losses its rows get."""
    completions = [e.completion_ids for e in examples]
    ids, mask = pad_right(completions, completions[0][-1])
    return {
        "prompts": [e.spoken for e in examples],
        "owners_B": torch.arange(len(examples)),
        "completion_ids_BC": ids,
        "completion_mask_BC": mask,
        "about_manner_B": torch.tensor([e.about_manner for e in examples]),
    }
