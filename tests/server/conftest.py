"""A small student to serve, and a spoken question."""

import pytest


@pytest.fixture(scope="session")
def base(small_student, tmp_path_factory):
    """The folder of the small student."""
    folder = tmp_path_factory.mktemp("served") / "base"
    small_student.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def aligned(base):
    from speech_rba.server.student import load

    return load(base, None)


@pytest.fixture(scope="session")
def spoken():
    """A spoken question (float32, 16 kHz)."""
    from speech_rba.synthesis.voices.voices import speak

    return speak("hibari-heart", "What is the capital of France?", 1.0, 0.0)
