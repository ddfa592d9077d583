"""The adapter takes part where the student is_uncertain what it hypotheses, and nowhere else."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from speech_rba.model.answering import AlignedStudent
from speech_rba.model.bridge import SoftTokens, one_hot_tokens
from speech_rba.model.logps import sequence_logps
from speech_rba.model.student import Student

GREEDY = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 8}


def soft(ids: list[int], best: float) -> SoftTokens:
    """Each position is one of `ids` with the weight `best`, and its neighbour in the vocabulary else."""
    tokens = torch.tensor([[i, i + 1] for i in ids])
    return SoftTokens(
        tokens,
        torch.tensor([[best, 1 - best]]).repeat(len(ids), 1),
        torch.zeros(len(ids), 384),
        torch.empty(0),
    )


def test_doubt_is_the_expected_number_of_misheard_positions():
    assert soft([5, 6, 7], 0.9).asr_uncertainty == pytest.approx(0.3)
    assert one_hot_tokens([5, 6, 7], 4).asr_uncertainty == one_hot_tokens([], 4).asr_uncertainty == 0


def test_what_was_heard_without_doubt_is_read_like_a_written_prompt(
    student, hypotheses, questions, monkeypatch
):
    monkeypatch.setattr(student.config, "soft_top_k", 8)
    is_uncertain = sorted(student.bridge.cross(h, 8, 1.0).asr_uncertainty for h in hypotheses)
    monkeypatch.setattr(student.config, "min_asr_uncertainty", is_uncertain[len(is_uncertain) // 2])
    understood, written = (
        [student.build_prompt(h) for h in hypotheses],
        student.text_prompts(questions[: len(hypotheses)]),
    )
    sure = [i for i, prompt in enumerate(understood) if not student.is_uncertain(prompt)]
    assert len(sure) == len(hypotheses) // 2
    right = [i for i in sure if student.audio_tower.text(hypotheses[i].token_ids.tolist()) == questions[i]]
    assert right and all(understood[i].ids.tolist() == written[i].ids.tolist() for i in right)
    assert max(understood[i].ids.shape[1] for i in sure) == 1
    assert min(understood[i].ids.shape[1] for i in set(range(len(hypotheses))) - set(sure)) == 8


@pytest.fixture
def saved(tmp_path, student):
    """A base whose adapter takes part from a asr_uncertainty of 0.5 on, and an adapter far from zero."""
    student.config.min_asr_uncertainty, student.config.adapter_min_asr_uncertainty = 0.1, 0.5
    student.save_pretrained(tmp_path / "base")
    student.config.min_asr_uncertainty, student.config.adapter_min_asr_uncertainty = 0.0, 0.0
    torch.manual_seed(0)
    model = get_peft_model(
        Student.from_pretrained(tmp_path / "base"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter"


def test_the_adapter_takes_part_in_what_is_in_doubt_alone(student, saved, questions):
    base, adapter = saved
    aligned = AlignedStudent(base, adapter, torch.float32)
    ids = student.tokenizer(questions[:2], add_special_tokens=False).input_ids
    sure, uncertain_examples = [soft(i, 0.98) for i in ids], [soft(i, 0.8) for i in ids]
    assert all(map(aligned.student.is_uncertain, sure))  # and it learns from them
    mixed = [sure[0], uncertain_examples[0], sure[1], uncertain_examples[1]]
    assert [aligned.adapts(prompt) for prompt in mixed] == [False, True, False, True]
    answers, plain = aligned.answer(mixed, **GREEDY), student.answer(mixed, **GREEDY)
    assert answers[::2] == plain[::2] and answers[1::2] != plain[1::2]
    logps, expected = (
        aligned.logps(mixed, [[42, 43]] * 4),
        sequence_logps(student, mixed, [[42, 43]] * 4).tolist(),
    )
    assert logps[::2] == pytest.approx(expected[::2], abs=1e-4)
    assert min(abs(a - b) for a, b in zip(logps[1::2], expected[1::2], strict=True)) > 0.1
    assert not AlignedStudent(base, None, torch.float32).adapts(uncertain_examples[0])


def test_without_a_threshold_the_adapter_takes_part_in_everything(student, saved):
    base, adapter = saved
    aligned = AlignedStudent(base, adapter, torch.float32)
    aligned.student.config.adapter_min_asr_uncertainty = 0.0
    assert aligned.adapts(one_hot_tokens([5], 384))
