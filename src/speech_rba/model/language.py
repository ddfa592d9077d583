"""Causal language models by asset name, read as float32 safetensors after one conversion from GGUF."""

import os
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from speech_rba.assets.resolve import CONVERTED, resolve, sha256
from speech_rba.model.generation import GROUPED


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`."""
    return AutoTokenizer.from_pretrained(_folder(name))


def load_language_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model called `name`, frozen and in eval mode."""
    model = AutoModelForCausalLM.from_pretrained(_folder(name), dtype=dtype, attn_implementation=GROUPED)
    return model.eval().requires_grad_(False)


def _folder(name: str) -> Path:
    """A folder that transformers reads; a GGUF file is converted once (1 s to load instead of 10 s)."""
    place = resolve(name)
    if not (files := sorted(place.glob("*.gguf"))):
        return place
    out = CONVERTED / sha256(files[0])[:16]
    if not (out / "config.json").exists():
        _convert(place, files[0].name, out)
    return out


def _convert(place: Path, gguf_file: str, out: Path) -> None:
    partial = out.with_name(f"{out.name}.{os.getpid()}")  # two processes may convert at once
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=gguf_file, dtype=torch.float32, quantization_config=config
    )
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(place, gguf_file=gguf_file).save_pretrained(partial)
    try:
        os.replace(partial, out)
    except OSError:  # the other process was first
        assert (out / "config.json").exists()


def embed(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """The token embeddings of `ids`, (T, D)."""
    return model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=model.device))
