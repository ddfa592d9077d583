"""Sampling: greedy answers equal those of transformers, and a row that ends does not change the others."""

import pytest
import torch

from speech_rba.model.generation import generate, sample
from speech_rba.model.language import embed

PROMPTS = ("The capital of France is", "One, two, three,", "Water is made of hydrogen and")


def test_greedy_equals_transformers_generate(small_student):
    model, tokenizer = small_student.language_model, small_student.tokenizer
    ids = [tokenizer(p).input_ids for p in PROMPTS]
    sampling = {"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, "eos_token_id": 2, "seed": 0}
    prompts = [embed(model, i) for i in ids]
    rows = generate(model, prompts, prefix=embed(model, []), batch_size=3, **sampling)
    for prompt, tokens in zip(ids, rows, strict=True):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=2)
        assert tokens == out[0, len(prompt) :].tolist()


def test_a_row_that_ends_leaves_the_others_unchanged(small_student):
    model, tokenizer = small_student.language_model, small_student.tokenizer
    ids = [tokenizer(p).input_ids for p in PROMPTS]
    sampling = {"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 3}
    prompts = [embed(model, i) for i in ids]
    whole = generate(model, prompts, prefix=embed(model, []), eos_token_id=2, **sampling)
    stop = whole[0][3]  # as if the first row's fourth token were the end
    cut = generate(model, prompts, prefix=embed(model, []), eos_token_id=stop, **sampling)
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in whole]
    assert cut == expected


def test_the_generations_of_a_prompt_follow_each_other_and_differ(small_student):
    model, tokenizer = small_student.language_model, small_student.tokenizer
    prompts = [embed(model, tokenizer(p).input_ids) for p in PROMPTS]
    sampling = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "eos_token_id": 2, "batch_size": 12}
    settings = sampling | {"prefix": embed(model, []), "seed": 1, "num_generations": 4}
    rows = generate(model, prompts, **settings)
    assert rows == generate(model, prompts, **settings) and len(rows) == 12
    assert len({tuple(row) for row in rows[:4]}) > 1


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_sampled_shares_equal_the_distribution(top_p):
    logits = torch.tensor([0.6, 0.3, 0.1]).log().expand(20_000, 3)
    tokens, _ = sample(logits, 1.0, top_p, torch.Generator().manual_seed(0))
    shares = (torch.bincount(tokens, minlength=3) / len(tokens)).tolist()
    expected = [0.6, 0.3, 0.1] if top_p == 1 else [2 / 3, 1 / 3, 0.0]  # the nucleus is the first two
    assert shares == pytest.approx(expected, abs=0.02)


def test_log_probabilities_are_of_the_temperature():
    """At temperature 0.5 shares of 0.6, 0.3 and 0.1 become 0.36, 0.09 and 0.01 of 0.46."""
    logits = torch.tensor([0.6, 0.3, 0.1]).log().expand(200, 3)
    tokens, logps = sample(logits, 0.5, 1.0, torch.Generator().manual_seed(0))
    expected = torch.tensor([0.36, 0.09, 0.01]) / 0.46
    assert set(tokens.tolist()) >= {0, 1} and torch.allclose(logps.exp(), expected[tokens])
    tokens, logps = sample(logits, 0.0, 1.0, torch.Generator())
    assert not tokens.any() and not logps.any()


def test_every_token_has_its_log_probability_also_where_rows_leave(small_student):
    """The log-probabilities are those of the model for each row alone."""
    model, tokenizer = small_student.language_model, small_student.tokenizer
    ids = [tokenizer(p).input_ids for p in PROMPTS]
    prompts = [embed(model, i) for i in ids]
    sampling = {"max_new_tokens": 12, "temperature": 0.7, "top_p": 1.0, "seed": 3, "batch_size": 6}
    settings = sampling | {"prefix": embed(model, []), "num_generations": 2}
    whole = generate(model, prompts, eos_token_id=2, **settings)
    logps: list[list[float]] = []
    rows = generate(model, prompts, eos_token_id=whole[0][2], logps=logps, **settings)
    assert len({len(row) for row in rows}) > 1
    for i, (row, row_logps) in enumerate(zip(rows, logps, strict=True)):
        prompt = ids[i // 2]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(row)[:, None])[:, 0]
        assert row_logps == pytest.approx(expected.tolist(), abs=1e-3)
