"""The student takes the ASR adapter's transcript only where it is surer than the unadapted Whisper."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speech_rba.config import load_params
from speech_rba.model.student import Student
from speech_rba.synthesis import augment
from speech_rba.synthesis.voices import voices

ROOT = Path(__file__).parents[2]
TEXTS = ("How many legs does a spider have?", "What do bees eat in winter?", "Tell me about the sea.")
SETTINGS = {"top_k": 4, "max_tokens": 48, "dtype": torch.float32}


@pytest.fixture(scope="module")
def adapted(small_student) -> Student:
    """The small student with the committed adapter and the thresholds of params.yaml."""
    base = load_params(ROOT / "params.yaml").base
    config = small_student.config.__class__.from_dict(small_student.config.to_dict())
    config.asr_adapter_below, config.asr_adapter_margin = base.asr_adapter_below, base.asr_adapter_margin
    config.asr_adapter_question_margin = base.asr_adapter_question_margin
    student = Student(config)
    student.asr_adapter = ROOT / "artifacts/asr_adapter"
    return student


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Clear speech, then robotic speech in white noise."""
    clear = [voices.say("hibari-heart", text, 1.0, 0.0) for text in TEXTS]
    robotic = [voices.say("espeak-en-gb-scotland+m4", text, 1.0, 0.0) for text in TEXTS]
    rng = np.random.default_rng(0)
    return clear + [augment.with_noise(r, augment.white_noise(len(r), rng), 3.0) for r in robotic]


def test_sure_clips_are_whispers_and_noisy_ones_the_adapters(adapted, clips):
    whisper = Student.__new__(Student)
    whisper.__dict__.update(adapted.__dict__ | {"asr_adapter": None})
    plain, by_student = (s.transcribe(clips, **SETTINGS) for s in (whisper, adapted))
    config = adapted.config
    assert [h.mean_logprob >= config.asr_adapter_below for h in plain] == [True] * 3 + [False] * 3
    for before, after in zip(plain[:3], by_student[:3], strict=True):
        assert torch.equal(before.token_ids, after.token_ids) and torch.equal(before.hidden, after.hidden)
    gains = [a.mean_logprob - b.mean_logprob for a, b in zip(by_student, plain, strict=True)]
    assert all(gain == 0 or gain > config.asr_adapter_margin for gain in gains)
    assert any(gain > 0 for gain in gains[3:])
    for before, after in zip(plain, by_student, strict=True):
        assert torch.equal(before.attribute_features, after.attribute_features)


def test_a_hypothesis_does_not_depend_on_the_other_clips(adapted, clips):
    together = adapted.transcribe(clips[2:5], **SETTINGS)
    alone = [adapted.transcribe([clip], **SETTINGS)[0] for clip in clips[2:5]]
    assert [h.token_ids.tolist() for h in together] == [h.token_ids.tolist() for h in alone]


def test_the_adapter_must_be_surer_by_the_margin_and_find_speech(adapted, hypotheses):
    whisper = replace(hypotheses[0], mean_logprob=-0.9)
    sure, close = (replace(hypotheses[1], mean_logprob=lp) for lp in (-0.5, -0.85))
    silent = replace(sure, no_speech="no speech detected")
    assert adapted.config.asr_adapter_margin == 0.1
    assert torch.equal(adapted.surer(whisper, sure).token_ids, sure.token_ids)
    assert torch.equal(adapted.surer(whisper, sure).attribute_features, whisper.attribute_features)
    assert adapted.surer(whisper, close) is whisper
    assert adapted.surer(whisper, silent) is whisper


def test_a_question_of_the_adapter_alone_must_be_surer_by_more(adapted, hypotheses):
    question, other = [h for h in hypotheses if adapted.is_question(h)][:2]
    statement = replace(other, token_ids=other.token_ids[:-1], mean_logprob=-1.5)
    assert not adapted.is_question(statement) and adapted.config.asr_adapter_question_margin == 0.6
    close, sure = (replace(question, mean_logprob=lp) for lp in (-0.85, -0.75))  # 0.65 and 0.75 above
    assert adapted.surer(statement, close) is statement
    assert torch.equal(adapted.surer(statement, sure).token_ids, question.token_ids)
    assert torch.equal(adapted.surer(replace(other, mean_logprob=-1.5), close).token_ids, question.token_ids)
