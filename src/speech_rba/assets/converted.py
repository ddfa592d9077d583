"""Models from the folders of converted weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights


def load_converted(
    architecture: Any, folder: Path, dtype: torch.dtype, attention: str = "sdpa"
) -> PreTrainedModel:
    """The model of one of transformers' auto classes in `folder`, in eval mode on the CPU.

    The weights are in one file under the names of the model and are read where they are used. transformers'
    from_pretrained gives the same in 1 s more: it looks for names to change, and its empty model imports
    torch's compiler.
    """
    config = AutoConfig.from_pretrained(folder)
    with no_init_weights():
        model = architecture.from_config(config, dtype=dtype, attn_implementation=attention)
    state = {name: weight.to(dtype) for name, weight in load_file(folder / "model.safetensors").items()}
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    assert not unknown and set(missing) <= tied, (folder, unknown, missing)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()
