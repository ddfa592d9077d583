"""hibari: a neural engine with one English voice in its package."""

from functools import cache

import numpy as np

from speech_rba.assets.resolve import resolve
from speech_rba.synthesis.voices.speaker import Speaker

VOICES = {"heart": Speaker("woman", "American")}  # the package holds no other: others would be downloaded


@cache
def _load():
    from hibari import Hibari

    return Hibari(model=str(resolve("pypi:hibari-tts") / "hibari.onnx"), threads=1)


def say(name: str, text: str, rate: float) -> tuple[np.ndarray, int]:
    """Float32 samples `(N,)` and their sampling rate.

    hibari rounds every phoneme to whole frames, so the duration follows `rate` only roughly.
    """
    assert name in VOICES
    return _load()(text, speed=rate, seed=0), _load().sample_rate
