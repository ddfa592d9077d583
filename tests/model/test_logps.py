"""Log-probabilities and entropies, computed for a few rows of the vocabulary table at a time."""

import pytest
import torch
from torch import nn

from speech_rba.model.logps import ROWS, sampling_kl, token_logps


def head(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(*weight.T.shape, bias=False).requires_grad_(False)
    layer.weight.data = weight
    return layer


def test_log_probability_and_entropy_by_hand():
    """Logits 0 and ln 3: probabilities 1/4 and 3/4, of which the second was taken."""
    hidden = torch.tensor([[3.0]]).log()
    logps, entropies = token_logps(hidden, head(torch.tensor([[0.0], [1.0]])), torch.tensor([1]))
    assert logps.item() == pytest.approx(-0.2877, abs=1e-4)  # ln 0.75
    assert entropies.item() == pytest.approx(0.5623, abs=1e-4)  # 0.25 ln 4 - 0.75 ln 0.75


def test_at_another_temperature_by_hand():
    """At temperature 0.5 logits 0 and ln 3 are 0 and ln 9: probabilities 1/10 and 9/10."""
    hidden = torch.tensor([[3.0]]).log()
    logps, entropies = token_logps(hidden, head(torch.tensor([[0.0], [1.0]])), torch.tensor([1]), 0.5)
    assert logps.item() == pytest.approx(-0.1054, abs=1e-4)  # ln 0.9
    assert entropies.item() == pytest.approx(0.3251, abs=1e-4)  # 0.1 ln 10 - 0.9 ln 0.9


def test_the_kl_of_the_sampler_by_hand():
    """A sampler of 1/2 and 1/2 and a policy of 1/4 and 3/4: 0.5 ln 2 + 0.5 ln(2 / 3), once each was drawn."""
    sampler, policy = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert sampling_kl(sampler, policy) == pytest.approx(0.1438, abs=1e-4)
    assert sampling_kl(policy, policy) == 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_more_rows_than_one_table_have_the_values_and_gradients_of_autograd(temperature):
    torch.manual_seed(0)
    hidden, ids = torch.randn(2 * ROWS + 3, 16, requires_grad=True), torch.randint(50, (2 * ROWS + 3,))
    layer, weights = head(torch.randn(50, 16)), torch.randn(2 * ROWS + 3)
    logps, entropies = token_logps(hidden, layer, ids, temperature)
    plain = (layer(hidden) / temperature).log_softmax(-1)
    expected = plain.gather(1, ids[:, None])[:, 0]
    assert torch.allclose(logps, expected, atol=1e-5)
    assert torch.allclose(entropies, -(plain.exp() * plain).sum(-1), atol=1e-5)
    gradient, expected_gradient = (
        torch.autograd.grad((x * weights).sum(), hidden)[0] for x in (logps, expected)
    )
    assert (gradient - expected_gradient).norm() / expected_gradient.norm() < 1e-5
