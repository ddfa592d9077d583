"""Trained LoRA adapters, read and applied without PEFT: it takes 1.5 s to load one, this 0.1 s."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from speech_rba.errors import UserError

PREFIX = "base_model.model."  # of each weight that PEFT saves
PLAIN = {"peft_type": "LORA", "bias": "none"}
VARIANTS = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class LowRank:
    """The update of one linear layer, A (r, in) and B (out, r): W + scaling B A."""

    down: torch.Tensor
    up: torch.Tensor
    scaling: float


def read_lora(folder: Path) -> dict[str, LowRank]:
    """The update of each layer by its name, float32, from an adapter that PEFT saved.

    Raises:
        UserError: the adapter is of a variant of LoRA.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    variants = [key for key, value in PLAIN.items() if config[key] != value]
    if variants := variants + [key for key in VARIANTS if config.get(key)]:
        raise UserError(f"{folder} is no plain LoRA adapter ({', '.join(variants)}): train it without")
    state = load_file(folder / "adapter_model.safetensors")
    names = [key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")]
    scaling = config["lora_alpha"] / config["r"]
    updates = {}
    for name in names:
        down, up = (state[f"{name}.lora_{side}.weight"].float() for side in "AB")
        updates[name.removeprefix(PREFIX)] = LowRank(down, up, scaling)
    return updates


@torch.no_grad()
def merge_lora(model: nn.Module, folder: Path) -> None:
    """`model`, in float32 on the CPU, has the adapter in its weights, those of PEFT's `merge_and_unload`.

    Raises:
        UserError: it has no layer of a name in the adapter.
    """
    for layer, update in _layers(model, folder):
        layer.weight = nn.Parameter(layer.weight + update.up @ update.down * update.scaling)


class Adapter:
    """Takes part in the linear layers of a model until `remove`, but for the time of `disabled`."""

    def __init__(self, model: nn.Module, folder: Path):
        self.enabled = True
        self.handles = [
            layer.register_forward_hook(self._hook(_on(layer.weight.device, update)))
            for layer, update in _layers(model, folder)
        ]

    def _hook(self, update: LowRank):
        def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            if not self.enabled:
                return output
            x = inputs[0].to(update.down.dtype)
            low = nn.functional.linear(nn.functional.linear(x, update.down), update.up)
            return (output + low * update.scaling).to(output.dtype)

        return add

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """A context in which the model is as without it."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def remove(self) -> None:
        """The model is as before."""
        for handle in self.handles:
            handle.remove()


def _on(device: torch.device, update: LowRank) -> LowRank:
    return LowRank(update.down.to(device), update.up.to(device), update.scaling)


def _layers(model: nn.Module, folder: Path) -> list[tuple[nn.Linear, LowRank]]:
    modules, layers = dict(model.named_modules()), []
    for name, update in read_lora(folder).items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear) or layer.weight.shape != (len(update.up), update.down.shape[1]):
            raise UserError(f"{folder} does not fit the model, which has no such layer: {name}")
        layers.append((layer, update))
    return layers
