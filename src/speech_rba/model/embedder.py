"""Sentence embeddings: mean-pooled, normalised, from any encoder of transformers."""

from collections.abc import Callable

import torch
from transformers import AutoModel, AutoTokenizer

from speech_rba.assets.resolve import resolve


def load_embedder(name: str) -> Callable[[list[str]], torch.Tensor]:
    """A function from texts to unit vectors (B, E); equal texts give equal vectors."""
    place = resolve(name)
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModel.from_pretrained(place, dtype=torch.float32).eval()

    @torch.inference_mode()
    def embed(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    return embed
