"""Batches on several threads give what they give one after the other."""

import pytest
import torch

from speech_rba.compute.threads import map_batches


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_with_one_core_each(two_threads):
    threads = list(map_batches(lambda batch: (batch, torch.get_num_threads()), range(6)))
    assert threads == [(batch, 1) for batch in range(6)]
    assert torch.get_num_threads() == 2


def test_an_error_reaches_the_caller_and_the_number_of_threads_is_restored(two_threads):
    with pytest.raises(ZeroDivisionError):
        list(map_batches(lambda batch: 1 / batch, [1, 0]))
    assert torch.get_num_threads() == 2


def test_greedy_answers_do_not_depend_on_the_number_of_threads(small_student, questions, two_threads):
    prompts = small_student.text_prompts(questions[:6])
    settings = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    together = small_student.answer(prompts, batch_size=2, **settings)
    torch.set_num_threads(1)
    assert together == small_student.answer(prompts, batch_size=6, **settings)


def test_a_single_batch_has_all_threads(two_threads):
    assert list(map_batches(lambda _: torch.get_num_threads(), ["one"])) == [2]
