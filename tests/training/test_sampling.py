"""An adapter merged while sampling: it acts as before, and leaves no trace."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from speech_rba.model.student import Student
from speech_rba.training.sampling import sampler


@pytest.fixture
def model(small_student):
    made = get_peft_model(Student(small_student.config).eval(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return made


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.base_model.model.language_model(torch.tensor([[5, 6, 7, 8]])).logits


def test_merged_it_acts_as_beside_the_weights(model):
    beside = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), beside, atol=0.05)
    with sampler(model):
        merged = logits(model)
    assert torch.allclose(merged, beside, atol=1e-3)


def test_afterwards_all_is_as_before_to_the_bit_also_after_an_error(model):
    before, output = {n: w.clone() for n, w in model.state_dict().items()}, logits(model)
    model.train()
    with pytest.raises(KeyError), sampler(model) as student:
        assert not student.training
        raise KeyError
    assert model.training and torch.equal(logits(model.eval()), output)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    model.train()
    model.base_model.model.language_model(torch.tensor([[5, 6]])).logits.sum().backward()
    assert any(w.grad is not None and w.grad.any() for n, w in model.named_parameters() if "lora_B" in n)
