"""The acoustic projector learns to tell the language model how something was said."""

from dataclasses import dataclass

import torch
from transformers import Cache, Trainer
from transformers.cache_utils import DynamicLayer

from speech_rba.model.bridge import SoftTokens
from speech_rba.model.generation import prefill
from speech_rba.model.language import embed
from speech_rba.model.logps import pad_right
from speech_rba.model.student import Student


@dataclass(frozen=True)
class AttributeExample:
    """One clip that asks how it was said, and the answer."""

    spoken: SoftTokens
    completion_ids: list[int]


class AttributeTrainer(Trainer):
    """transformers' Trainer over AttributeExample examples; the loss is the cross-entropy of the answer's tokens."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        examples = inputs["examples"]
        ids = torch.tensor([i for e in examples for i in e.completion_ids])
        loss = torch.nn.functional.nll_loss(answer_logprobs(model, examples), ids)
        return (loss, {}) if return_outputs else loss


def answer_logprobs(student: Student, examples: list[AttributeExample]) -> torch.Tensor:
    """Log-probabilities (N, V) of the N completion tokens, row by row.

    Only what follows the query can depend on how it sounds: what comes before is read without gradients.
    """
    model, num_after = student.language_model, len(student.suffix_ids)
    ids, kept = pad_right([e.completion_ids for e in examples], 0)
    embeds = student.prompt_embeds([e.spoken for e in examples])
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    with torch.no_grad():
        prefix, queries = embed(model, student.prefix_ids), [e[:-num_after] for e in embeds]
        _, read = prefill(model, prefix, queries, cache)
    new = torch.cat(
        [torch.stack([e[-num_after:] for e in embeds]), model.get_input_embeddings()(ids[:, :-1])], dim=1
    )
    steps = torch.cat([read.new_ones(len(examples), num_after), kept[:, :-1]], dim=1)
    hidden = model.base_model(
        inputs_embeds=new,
        attention_mask=torch.cat([read, steps], dim=1),
        position_ids=read.sum(1, keepdim=True) + torch.arange(steps.shape[1]),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return model.get_output_embeddings()(hidden[:, num_after - 1 :][kept.bool()]).float().log_softmax(-1)


def collate(examples: list[AttributeExample]) -> dict:
    return {"examples": examples}
