"""The LoRA adapter that a method trains: made anew, or continued from a trained one."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import set_seed

from speech_rba.assets.resolve import sha256
from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.model.speech_student import SpeechStudent

SETTINGS = {  # a key of adapter_config.json and the parameter that sets it
    "base_model_name_or_path": "assets.speech_llm or language_model",
    "r": "align.lora_r",
    "lora_alpha": "align.lora_alpha",
    "target_modules": "align.lora_target_modules",
}


def add_adapter(student: SpeechStudent, params: Params) -> PeftModel:
    """The student with a trainable LoRA adapter, that of align.start_from if there is one; all else is
    frozen.

    Raises:
        UserError: the language model has no layer of a name in align.lora_target_modules, or the adapter of
            align.start_from does not fit.
    """
    align = params.align
    check_target_modules(student, align.lora_target_modules)
    set_seed(align.seed)
    targets = student.lora_targets(align.lora_target_modules)
    config = LoraConfig(r=align.lora_r, lora_alpha=align.lora_alpha, target_modules=targets)
    model = get_peft_model(student, config)
    if align.start_from:
        load_adapter(model, align.start_from, base_model(params))
    return model


def check_target_modules(student: SpeechStudent, names: list[str]) -> None:
    """Raises UserError where the language model has no linear layer of a name."""
    modules = student.language_model.get_decoder().named_modules()
    linear = {path.split(".")[-1] for path, module in modules if type(module) is torch.nn.Linear}
    if unknown := [name for name in names if name not in linear]:
        raise UserError(
            f"align.lora_target_modules names {', '.join(unknown)}, which the language model does not have: "
            f"choose from {', '.join(sorted(linear))}"
        )


def base_model(params: Params) -> str:
    """The asset that the adapter updates."""
    return params.assets.speech_llm or params.assets.language_model


def load_adapter(model: PeftModel, start_from: str, base: str) -> None:
    """`model` has the weights of the trained adapter FOLDER#HASH.

    Raises:
        UserError: there is none, its content is not that of HASH, or it is of another model or shape.
    """
    folder, _, expected = start_from.rpartition("#")
    weights, config = (Path(folder) / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    if not weights.exists() or not config.exists():
        raise UserError(
            f"align.start_from, {folder}, holds no adapter: name another folder, or null to start anew"
        )
    if (actual := sha256(weights)[:16]) != expected:
        raise UserError(
            f"align.start_from names {folder} with the content {expected}, and it holds {actual}: bring that "
            f"adapter back, or write {folder}#{actual}"
        )
    current = model.peft_config["default"].to_dict() | {"base_model_name_or_path": base}
    check_config(json.loads(config.read_text()), current, folder)
    state = load_file(weights)
    check_shapes(state, get_peft_model_state_dict(model), folder)
    set_peft_model_state_dict(model, state)


def check_config(config: dict, current: dict, folder: str) -> None:
    """Raises UserError where the adapter_config of `folder` differs from the current one."""
    for key, parameter in SETTINGS.items():
        theirs, ours = as_comparable(config.get(key)), as_comparable(current[key])
        if theirs != ours:
            raise UserError(
                f"{folder} does not fit {parameter}: it has {key} {theirs}, this run {ours}; set "
                f"align.start_from to null, or {parameter} to the adapter's"
            )


def as_comparable(value: object) -> object:
    """PEFT writes the names of layers in any order."""
    return sorted(value) if isinstance(value, list | set) else value


def check_shapes(state: dict[str, torch.Tensor], current: dict[str, torch.Tensor], folder: str) -> None:
    """Raises UserError where the tensors of `folder` differ from the current ones by name or shape."""
    shapes, current_shapes = (
        {name: weight.shape for name, weight in tensors.items()} for tensors in (state, current)
    )
    if wrong := current_shapes.items() ^ shapes.items():
        names = sorted({name for name, _ in wrong})[:3]
        raise UserError(f"{folder} is of a model of another size: {', '.join(names)}")
