"""A Whisper of transformers from CTranslate2's model.bin, which is a plain list of named arrays."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from speech_rba.errors import UserError

DTYPES = [np.float32, np.int8, np.int16, np.int32, np.float16]
VERSION = 6


def convert_whisper(folder: Path, out: Path) -> None:
    """Writes model, tokenizer and feature extractor of the CTranslate2 model in `folder` to `out`."""
    arrays = read_model_bin(folder / "model.bin")
    state = whisper_state_dict(arrays)
    ids = json.loads((folder / "config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(_config(state, tokenizer))
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert not unexpected and set(missing) <= {"proj_out.weight"}, (missing, unexpected)
    model.tie_weights()
    model.generation_config.suppress_tokens = ids["suppress_ids"]
    model.generation_config.begin_suppress_tokens = ids["suppress_ids_begin"]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(out)


def read_model_bin(path: Path) -> dict[str, np.ndarray]:
    """Every float array of a model.bin by name.

    Source: CTranslate2, python/ctranslate2/specs/model_spec.py, `ModelSpec._serialize`.
    Raises:
        UserError: the file has another binary version.
    """
    data, place = path.read_bytes(), 0

    def number(code: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + code, data, place)
        place += struct.calcsize(code)
        return value

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return data[place - length : place - 1].decode()

    if (version := number("I")) != VERSION:
        raise UserError(f"{path} has CTranslate2 binary version {version}; this reader knows {VERSION}")
    text(), number("I")
    arrays = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = np.dtype(DTYPES[number("B")]), number("I")
        arrays[name] = np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size
    return {name: a for name, a in arrays.items() if a.dtype.kind == "f" and a.ndim}


def whisper_state_dict(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays under transformers' names, float32."""
    state: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array.astype(np.float32))
        if place := re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)/(\w+)", name):
            state.update(_layer(*place.groups(), tensor))
        else:
            state[_TOP[name]] = tensor
    return state


_TOP = {
    **{f"encoder/{c}/{p}": f"model.encoder.{c}.{p}" for c in ("conv1", "conv2") for p in ("weight", "bias")},
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
    "decoder/projection/weight": "proj_out.weight",
    **{
        f"{s}/position_encodings/encodings": f"model.{s}.embed_positions.weight"
        for s in ("encoder", "decoder")
    },
    **{f"{s}/layer_norm/gamma": f"model.{s}.layer_norm.weight" for s in ("encoder", "decoder")},
    **{f"{s}/layer_norm/beta": f"model.{s}.layer_norm.bias" for s in ("encoder", "decoder")},
}
_PARTS = {  # CTranslate2's module: transformers' module, and the projections stacked in it
    "self_attention/linear_0": ("self_attn", "qkv"),
    "self_attention/linear_1": ("self_attn", "out"),
    "attention/linear_0": ("encoder_attn", "q"),
    "attention/linear_1": ("encoder_attn", "kv"),
    "attention/linear_2": ("encoder_attn", "out"),
    "self_attention/layer_norm": ("self_attn_layer_norm", ""),
    "attention/layer_norm": ("encoder_attn_layer_norm", ""),
    "ffn/layer_norm": ("final_layer_norm", ""),
    "ffn/linear_0": ("fc1", ""),
    "ffn/linear_1": ("fc2", ""),
}


def _layer(side: str, layer: str, part: str, kind: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
    module, projections = _PARTS[part]
    where = f"model.{side}.layers.{layer}.{module}"
    if not projections:
        return {f"{where}.{kind}": tensor}
    names = ["out"] if projections == "out" else list(projections)
    pieces = zip(names, tensor.chunk(len(names)), strict=True)
    # Whisper's key projection has no bias: CTranslate2 stores zeros for it
    return {f"{where}.{n}_proj.{kind}": piece.clone() for n, piece in pieces if (n, kind) != ("k", "bias")}


def _config(state: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast) -> WhisperConfig:
    width, mels, _ = state["model.encoder.conv1.weight"].shape
    layers = 1 + max(int(name.split(".")[3]) for name in state if ".layers." in name)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return WhisperConfig(
        vocab_size=len(state["model.decoder.embed_tokens.weight"]),
        num_mel_bins=mels,
        d_model=width,
        **{f"{side}_layers": layers for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": width // 64 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")},
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        **{f"{kind}_token_id": end for kind in ("pad", "bos", "eos")},
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
