"""Causal language models by asset name, read as float32 safetensors after one conversion from GGUF."""

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from speech_rba.assets import resolve, sha256

CONVERTED = Path(os.environ.get("SPEECH_RBA_CACHE", "work/converted"))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`."""
    return AutoTokenizer.from_pretrained(_folder(name))


def load_language_model(name: str) -> PreTrainedModel:
    """The model called `name`, float32 on a CPU and bfloat16 on a GPU, frozen and in eval mode."""
    # bfloat16 matrix products ran at 1 % of float32's speed on a CPU without AVX512-BF16
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(_folder(name), dtype=dtype)
    return model.eval().requires_grad_(False)


def _folder(name: str) -> Path | str:
    """A folder or hub id that transformers reads; a GGUF file is converted once (1 s to load instead of 10 s)."""
    place = resolve(name)
    if not isinstance(place, Path) or not (files := sorted(place.glob("*.gguf"))):
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
