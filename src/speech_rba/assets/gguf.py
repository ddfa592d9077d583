"""A language model of transformers from a GGUF file."""

import os
from pathlib import Path

import torch

from speech_rba.assets.resolve import CONVERTED, remembered_sha256, resolve


def language_model_folder(name: str) -> Path:
    """The folder of the model called `name` in a form that transformers reads.

    A GGUF file is converted to float32 safetensors once: they load in 1 s, the GGUF file in 10 s.
    """
    folder = resolve(name)
    gguf_files = sorted(folder.glob("*.gguf"))
    if not gguf_files:
        return folder
    out = CONVERTED / remembered_sha256(gguf_files[0])[:16]
    if not (out / "config.json").exists():
        _convert(folder, gguf_files[0].name, out)
    return out


def _convert(folder: Path, gguf_file: str, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = out.with_name(f"{out.name}.{os.getpid()}")  # two processes may convert at once
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf_file, dtype=torch.float32, quantization_config=config
    )
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file).save_pretrained(partial)
    try:
        os.replace(partial, out)
    except OSError:  # the other process was first
        assert (out / "config.json").exists()
