"""Rewards against numbers worked by hand."""

import pytest
import torch

from speech_rba.alignment import rewards
from speech_rba.model.logps import sequence_logps
from speech_rba.records import Instruction


def test_length_is_free_up_to_twice_the_teachers_answer():
    assert rewards.length(20, 10, ended=True) == 0
    assert rewards.length(25, 10, ended=True) == -0.5  # 2.5 times: half a length too long
    assert rewards.length(90, 10, ended=True) == -1
    assert rewards.length(5, 10, ended=False) == -1


def test_repetition_counts_three_grams_that_come_back():
    assert rewards.repetition([1, 2, 3, 4, 5]) == 0
    assert rewards.repetition([1, 2, 3, 1, 2, 3]) == -0.25  # 123 231 312 123: one of four again
    assert rewards.repetition([7]) == 0


def test_agreement_is_the_cosine_of_each_pair():
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}
    embed = lambda texts: torch.tensor([vectors[t] for t in texts])  # noqa: E731
    assert rewards.teacher_similarity(embed, ["a", "a", "b"], ["a", "b", "c"]) == pytest.approx([1, 0, 0.8])


def test_bleu_and_chrf_of_a_sentence():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 runs of four: the fourth root of 0.8 * 0.75 * 0.667 * 0.5
    assert rewards.bleu("a b c d e", "a b c d f") == pytest.approx(0.2**0.25)
    # one of two characters and none of one pair: precision and recall are (0.5 + 0) / 2
    assert rewards.chrf("ab", "ac") == pytest.approx(0.25)
    assert rewards.bleu("Es ist spät.", "Es ist spät.") == pytest.approx(1) == rewards.chrf("x y z", "x y z")


def test_instructions_pay_by_the_share_that_is_followed():
    short = Instruction(
        name="length_constraints:number_words", arguments={"num_words": 4, "relation": "less than"}
    )
    plain = Instruction(name="punctuation:no_comma", arguments={})
    assert rewards.instructions("Yes, it is", [short, plain]) == 0.5
    assert rewards.instructions("It is", [short, plain]) == 1
    assert rewards.instructions("It is", []) == 0


def test_pmi_prefers_the_answer_to_the_bland_one(student):
    (query,) = student.text_prompts(["What is the capital of France?"])
    texts = ("The capital of France is Paris.", "I am here to help.")
    ids = [[*student.tokenizer(t).input_ids, 2] for t in texts]
    right, bland = rewards.teacher_pmi(student, [query, query], ids)
    assert right > bland + 0.5


def test_sequence_logps_do_not_depend_on_the_batch(student):
    prompts = student.text_prompts(["What is the capital of France?", "Who are you?"])
    ids = [
        student.tokenizer("Paris.").input_ids,
        student.tokenizer("I am an assistant made to help.").input_ids,
    ]
    together = sequence_logps(student, prompts, ids)
    alone = [sequence_logps(student, [p], [i]).item() for p, i in zip(prompts, ids, strict=True)]
    assert together.tolist() == pytest.approx(alone, abs=1e-2)
