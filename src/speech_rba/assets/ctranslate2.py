"""A Whisper of transformers from CTranslate2's model.bin, which is a plain list of named arrays."""

import json
import re
import struct
from dataclasses import dataclass
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
    file = _Reader(path.read_bytes())
    if (version := file.number("I")) != VERSION:
        raise UserError(f"{path} has CTranslate2 binary version {version}; this reader knows {VERSION}")
    file.text()  # the specification's name
    file.number("I")  # and its revision
    arrays = dict(file.array() for _ in range(file.number("I")))
    return {name: a for name, a in arrays.items() if a.dtype.kind == "f" and a.ndim}


@dataclass
class _Reader:
    """Reads the values of a model.bin one after the other."""

    data: bytes
    position: int = 0

    def number(self, code: str) -> int:
        """The next number, little-endian, of a format code of `struct`."""
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize(code)
        return value

    def text(self) -> str:
        """The next text, whose length comes before it and counts a final zero byte."""
        length = self.number("H")
        self.position += length
        return self.data[self.position - length : self.position - 1].decode()

    def array(self) -> tuple[str, np.ndarray]:
        """The next array and its name."""
        name = self.text()
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype, num_bytes = np.dtype(DTYPES[self.number("B")]), self.number("I")
        array = np.frombuffer(self.data, dtype, num_bytes // dtype.itemsize, self.position).reshape(shape)
        self.position += num_bytes
        return name, array


def whisper_state_dict(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays under transformers' names, float32."""
    state: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array.astype(np.float32))
        if parts := re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)/(\w+)", name):
            side, layer, part, kind = parts.groups()
            state.update(_layer(side, layer, part, kind, tensor))
        else:
            state[_TOP[name]] = tensor
    return state


_TOP = {
    "encoder/conv1/weight": "model.encoder.conv1.weight",
    "encoder/conv1/bias": "model.encoder.conv1.bias",
    "encoder/conv2/weight": "model.encoder.conv2.weight",
    "encoder/conv2/bias": "model.encoder.conv2.bias",
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "encoder/layer_norm/gamma": "model.encoder.layer_norm.weight",
    "encoder/layer_norm/beta": "model.encoder.layer_norm.bias",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/layer_norm/gamma": "model.decoder.layer_norm.weight",
    "decoder/layer_norm/beta": "model.decoder.layer_norm.bias",
    "decoder/projection/weight": "proj_out.weight",
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
    prefix = f"model.{side}.layers.{layer}.{module}"
    if not projections:
        return {f"{prefix}.{kind}": tensor}
    names = ["out"] if projections == "out" else list(projections)
    pieces = zip(names, tensor.chunk(len(names)), strict=True)
    # Whisper's key projection has no bias: CTranslate2 stores zeros for it
    return {f"{prefix}.{n}_proj.{kind}": piece.clone() for n, piece in pieces if (n, kind) != ("k", "bias")}


def _config(state: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast) -> WhisperConfig:
    width, num_mel_bins, _ = state["model.encoder.conv1.weight"].shape
    num_layers = 1 + max(int(name.split(".")[3]) for name in state if ".layers." in name)
    end, start = (_token_id(tokenizer, token) for token in ("<|endoftext|>", "<|startoftranscript|>"))
    return WhisperConfig(
        vocab_size=len(state["model.decoder.embed_tokens.weight"]),
        num_mel_bins=num_mel_bins,
        d_model=width,
        encoder_layers=num_layers,
        decoder_layers=num_layers,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id
