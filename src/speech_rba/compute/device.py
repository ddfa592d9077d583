"""Where and in which numbers the project computes: the one place that decides device and dtype."""

import torch


def fast_dtype() -> torch.dtype:
    """bfloat16 on a GPU and on a CPU that multiplies it, float32 elsewhere.

    One core of an AVX512-BF16 machine did 200 GFLOP/s in bfloat16 and 90 in float32; a CPU without it, 1.
    """
    cpu = torch.cpu.get_capabilities()
    fast = torch.cuda.is_available() or cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


def fast_products(device: torch.device) -> torch.autocast:
    """Inside this context products are in `fast_dtype`, whatever the weights are in."""
    return torch.autocast(device.type, fast_dtype(), enabled=fast_dtype() != torch.float32)
