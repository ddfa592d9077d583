"""The policy that samples is the policy that is trained: the adapter acts in it, and sampling changes no
weight."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from speech_rba.alignment.sampling import sampling_student
from speech_rba.model.student import Student


@pytest.fixture
def model(small_student):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    peft_model = get_peft_model(Student(small_student.config).eval(), config)
    with torch.no_grad():
        for name, weight in peft_model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return peft_model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.base_model.model.language_model(torch.tensor([[5, 6, 7, 8]])).logits


def test_the_adapter_acts_in_sampling_as_in_training(model):
    trained = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), trained, atol=0.05)
    with sampling_student(model):
        sampled = logits(model)
    assert torch.allclose(sampled, trained, atol=1e-3)


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_an_update_too_small_for_a_bfloat16_weight_is_kept(bias):
    """The next bfloat16 numbers beside 1 are 0.996 and 1.008: an update of 0.001 would be rounded away in
    each of 64 weights, 32 of 1 and 32 of -1, which leave 64 * 0.001 of a row of ones."""
    layer = torch.nn.Linear(64, 2, bias=bias > 0, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0] * 32 + [-1.0] * 32).expand(2, 64))
        if bias:
            layer.bias.fill_(bias)
    tuned = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=1, lora_alpha=2, target_modules=["0"]))
    torch.nn.init.ones_(tuned.base_model.model[0].lora_A["default"].weight)
    torch.nn.init.constant_(tuned.base_model.model[0].lora_B["default"].weight, 0.0005)
    ones = torch.ones(1, 64, dtype=torch.bfloat16)
    with torch.no_grad(), sampling_student(tuned) as student:
        assert student[0](ones).tolist()[0] == pytest.approx([bias + 0.064] * 2, abs=0.002)
    tuned.merge_adapter()
    with torch.no_grad():
        assert tuned.base_model.model[0](ones).tolist()[0] == [bias] * 2


def test_after_sampling_or_an_error_in_it_the_model_is_unchanged_to_the_bit(model):
    before, output = {n: w.clone() for n, w in model.state_dict().items()}, logits(model)
    model.train()
    with pytest.raises(KeyError), sampling_student(model) as student:
        assert not student.training
        raise KeyError
    assert model.training and torch.equal(logits(model.eval()), output)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    model.train()
    model.base_model.model.language_model(torch.tensor([[5, 6]])).logits.sum().backward()
    assert any(w.grad is not None and w.grad.any() for n, w in model.named_parameters() if "lora_B" in n)
