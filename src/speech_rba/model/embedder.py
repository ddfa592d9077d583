"""Sentence embeddings: mean-pooled, normalised, from any encoder of transformers."""

from collections.abc import Callable

import torch
from transformers import AutoModel, AutoTokenizer

from speech_rba.assets.resolve import resolve
from speech_rba.compute.device import device


def load_embedder(name: str) -> Callable[[list[str]], torch.Tensor]:
    """A function from texts to unit vectors (B, E) on the CPU; equal texts give equal vectors."""
    folder = resolve(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(device())

    @torch.inference_mode()
    def embed(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        batch = batch.to(model.device)
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).cpu()

    return embed
