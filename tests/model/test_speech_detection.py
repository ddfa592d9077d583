"""Silero VAD by the project's call of its network."""

import numpy as np
import onnxruntime
import pytest

from speech_rba.assets.resolve import resolve
from speech_rba.model.speech_detection import WINDOW, speech_probabilities
from speech_rba.synthesis.voices.voices import speak


@pytest.fixture(scope="module")
def speech():
    return speak("hibari-heart", "What is the capital of France?", 1.0, 0.0)


def test_speech_is_probable_where_a_voice_speaks_and_not_in_silence_noise_or_a_tone(speech):
    rng = np.random.default_rng(0)
    silence = np.zeros(16_000, np.float32)
    probabilities = speech_probabilities(np.concatenate([silence, speech, silence]))
    before, middle = 16_000 // WINDOW, (16_000 + len(speech)) // WINDOW
    assert probabilities[: before - 1].max() < 0.2
    assert np.median(probabilities[before:middle]) > 0.9
    assert probabilities[-20:].max() < 0.2
    for other in (rng.normal(0, 0.05, 48_000), 0.3 * np.sin(np.arange(48_000) / 6)):
        assert speech_probabilities(other.astype(np.float32)).max() < 0.5


def test_there_is_one_probability_for_each_started_window():
    lengths = [0, 1, WINDOW, WINDOW + 1, 16_000]
    assert [len(speech_probabilities(np.zeros(n, np.float32))) for n in lengths] == [0, 1, 1, 2, 32]


def test_a_long_clip_gives_what_the_network_gives_window_by_window(speech, monkeypatch):
    """Against the network of the package that takes one window a call."""
    path = resolve("pypi:silero-vad") / "silero_vad_16k_op15.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, expected = np.zeros((2, 1, 128), np.float32), []
    padded = np.pad(speech, (64, -len(speech) % WINDOW))
    for start in range(0, len(padded) - 64, WINDOW):
        window = padded[None, start : start + 64 + WINDOW]
        out, state = session.run(None, {"input": window, "state": state, "sr": np.array(16_000)})
        expected.append(out[0, 0])
    monkeypatch.setattr("speech_rba.model.speech_detection.WINDOWS_AT_ONCE", 7)
    assert np.allclose(speech_probabilities(speech), expected, atol=1e-5)
