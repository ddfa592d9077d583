"""Causal language models by asset name."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from speech_rba.assets.converted import load_converted
from speech_rba.assets.gguf import language_model_folder
from speech_rba.assets.resolve import CONVERTED
from speech_rba.compute.device import attention_implementation, device
from speech_rba.model import generation  # noqa: F401  it registers the attention


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`."""
    return AutoTokenizer.from_pretrained(language_model_folder(name))


def load_language_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model called `name`, frozen and in eval mode, on the device of compute/device.py."""
    attention = attention_implementation()
    folder = language_model_folder(name)
    if folder.parent == CONVERTED:
        model = load_converted(AutoModelForCausalLM, folder, dtype, attention)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False).to(device())


def embed(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """The token embeddings of `ids`, (T, D)."""
    return model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=model.device))
