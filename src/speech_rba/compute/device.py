"""Where and in which numbers the project computes: the one place that decides device, dtype and attention."""

import os

import torch

GROUPED_ATTENTION = "grouped_short"  # model/generation.py registers it with transformers

torch.backends.cudnn.allow_tf32 = False  # else a GPU rounds Whisper's convolutions in float32 to 10 bits


def device() -> torch.device:
    """The device of every model: the one that the environment variable DEVICE names, else a GPU, else the
    CPU."""
    return torch.device(os.environ.get("DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def fast_dtype() -> torch.dtype:
    """bfloat16 on a GPU and on a CPU that multiplies it, float32 elsewhere.

    One core of an AVX512-BF16 machine did 200 GFLOP/s in bfloat16 and 90 in float32; a CPU without it, 1.
    """
    if device().type != "cpu":
        return torch.bfloat16
    cpu = torch.cpu.get_capabilities()
    return torch.bfloat16 if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else torch.float32


def fast_products(place: torch.device) -> torch.autocast:
    """A context in which products are in `fast_dtype`, whatever the dtype of the weights."""
    return torch.autocast(place.type, fast_dtype(), enabled=fast_dtype() != torch.float32)


def attention_implementation() -> str:
    """The name of the attention of language models, as transformers knows it."""
    return GROUPED_ATTENTION if device().type == "cpu" else "sdpa"
