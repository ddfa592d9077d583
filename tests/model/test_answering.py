"""The adapter takes part where the ASR uncertainty is high, and nowhere else."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from speech_rba.model.answering import AlignedStudent
from speech_rba.model.bridge import SoftTokens, one_hot_tokens
from speech_rba.model.logps import sequence_logps
from speech_rba.model.student import Student

GREEDY = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 8}


def soft_tokens(ids: list[int], best: float) -> SoftTokens:
    """Each position is one of `ids` with the weight `best`, and its neighbour in the vocabulary else."""
    tokens, weights = torch.tensor([[i, i + 1] for i in ids]), torch.tensor([[best, 1 - best]])
    return SoftTokens(tokens, weights.repeat(len(ids), 1), torch.zeros(len(ids), 384), torch.empty(0))


def test_asr_uncertainty_is_the_expected_number_of_wrong_tokens():
    assert soft_tokens([5, 6, 7], 0.9).asr_uncertainty == pytest.approx(0.3)
    assert one_hot_tokens([5, 6, 7], 4).asr_uncertainty == one_hot_tokens([], 4).asr_uncertainty == 0


def test_a_certain_hypothesis_becomes_the_prompt_of_its_transcript(
    small_student, hypotheses, questions, monkeypatch
):
    student = small_student
    monkeypatch.setattr(student.config, "soft_top_k", 8)
    uncertainties = sorted(student.bridge.cross(h, 8, 1.0).asr_uncertainty for h in hypotheses)
    monkeypatch.setattr(student.config, "min_asr_uncertainty", uncertainties[len(hypotheses) // 2])
    prompts = [student.build_prompt(h) for h in hypotheses]
    written = student.text_prompts(questions[: len(hypotheses)])
    certain = [i for i, prompt in enumerate(prompts) if not student.is_uncertain(prompt)]
    assert len(certain) == len(hypotheses) // 2
    right = [i for i in certain if student.transcript(hypotheses[i]) == questions[i]]
    assert right and all(prompts[i].ids.tolist() == written[i].ids.tolist() for i in right)
    assert max(prompts[i].ids.shape[1] for i in certain) == 1
    assert min(prompts[i].ids.shape[1] for i in set(range(len(hypotheses))) - set(certain)) == 8


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_student):
    """A base whose adapter takes part from an ASR uncertainty of 0.5 on, and an adapter far from zero."""
    folder = tmp_path_factory.mktemp("saved")
    student = Student(small_student.config)
    student.config.min_asr_uncertainty, student.config.adapter_min_asr_uncertainty = 0.1, 0.5
    student.save_pretrained(folder / "base")
    student.config.min_asr_uncertainty, student.config.adapter_min_asr_uncertainty = 0.0, 0.0
    torch.manual_seed(0)
    model = get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


@pytest.fixture(scope="module")
def aligned(saved) -> AlignedStudent:
    base, adapter = saved
    return AlignedStudent(base, adapter, torch.float32)


def test_the_adapter_takes_part_in_uncertain_prompts_alone(small_student, saved, aligned, questions):
    ids = small_student.tokenizer(questions[:2], add_special_tokens=False).input_ids
    certain, uncertain = [soft_tokens(i, 0.98) for i in ids], [soft_tokens(i, 0.8) for i in ids]
    assert all(map(aligned.student.is_uncertain, certain))  # enough for the adapter to learn from them
    mixed = [certain[0], uncertain[0], certain[1], uncertain[1]]
    assert [aligned.adapts(prompt) for prompt in mixed] == [False, True, False, True]
    answers, unadapted = aligned.answer(mixed, **GREEDY), small_student.answer(mixed, **GREEDY)
    assert answers[::2] == unadapted[::2] and answers[1::2] != unadapted[1::2]
    completions = [[42, 43]] * 4
    logps = aligned.logps(mixed, completions)
    unadapted_logps = sequence_logps(small_student, mixed, completions).tolist()
    assert logps[::2] == pytest.approx(unadapted_logps[::2], abs=1e-4)
    assert min(abs(a - b) for a, b in zip(logps[1::2], unadapted_logps[1::2], strict=True)) > 0.01
    assert not AlignedStudent(saved[0], None, torch.float32).adapts(uncertain[0])


def test_a_streamed_answer_is_the_whole_answer(small_student, aligned, questions):
    """Whether the adapter takes part or not, and where the token limit cuts."""
    ids = small_student.tokenizer(questions[:6], add_special_tokens=False).input_ids
    prompts = [soft_tokens(i, best) for i in ids for best in (0.98, 0.8)]
    pieces = [list(aligned.stream(prompt)) for prompt in prompts]
    assert ["".join(p) for p in pieces] == aligned.respond(prompts)[0]
    assert max(map(len, pieces)) > 1


def test_without_a_threshold_the_adapter_takes_part_in_every_answer(aligned, monkeypatch):
    monkeypatch.setattr(aligned.student.config, "adapter_min_asr_uncertainty", 0.0)
    assert aligned.adapts(one_hot_tokens([5], 384))
