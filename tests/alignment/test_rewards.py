"""Rewards against numbers worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from speech_rba.alignment import rewards
from speech_rba.alignment.examples import Example
from speech_rba.alignment.rewards import REWARDS, RewardBatch, distinct_share
from speech_rba.config import RewardWeights
from speech_rba.model.logps import mutual_information, sequence_logps
from speech_rba.model.student import Student
from speech_rba.records import Instruction
from tests.align_inputs import row

EOS = 2


def batch(completions=(), references=(), ids=(), reference_lengths=(), instructions=()) -> RewardBatch:
    """Completions by text or by token ids, and the teacher's answers by text or by length."""
    size = max(map(len, (completions, references, ids, reference_lengths, instructions)))
    examples = []
    for i in range(size):
        changes = {"completion": references[i] if references else ""}
        changes |= {"instructions": instructions[i] if instructions else []}
        reference_ids = [1] * (reference_lengths[i] if reference_lengths else 0)
        examples.append(Example(None, row(i, "Why?").model_copy(update=changes), None, None, reference_ids))
    student = SimpleNamespace(tokenizer=SimpleNamespace(eos_token_id=EOS))
    model = SimpleNamespace(base_model=SimpleNamespace(model=student))
    return RewardBatch(model, None, examples, list(ids), list(completions))


def test_the_table_holds_what_params_weighs():
    assert set(REWARDS) == set(RewardWeights.model_fields)


def test_length_is_free_up_to_twice_the_teachers_answer():
    ended = [[1] * (length - 1) + [EOS] for length in (20, 25, 90)]
    clipped = [1] * 5
    # 25 tokens are 2.5 times the teacher's: half a length too long
    assert rewards.length(batch(ids=[*ended, clipped], reference_lengths=[10] * 4)) == [0, -0.5, -1, -1]


def test_repetition_counts_repeated_three_grams():
    ids = [[1, 2, 3, 4, 5], [1, 2, 3, 1, 2, 3], [7]]  # 123 231 312 123: one of four is repeated
    assert rewards.repetition(batch(ids=ids)) == [0, -0.25, 0]
    assert [distinct_share(tokens) for tokens in ids] == [1, 0.75, 1]


def test_teacher_similarity_is_the_cosine_of_each_pair():
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}
    texts = replace(
        batch(["a", "a", "b"], ["a", "b", "c"]), embed=lambda t: torch.tensor([vectors[x] for x in t])
    )
    assert rewards.teacher_similarity(texts) == pytest.approx([1, 0, 0.8])


def test_bleu_and_chrf_of_a_sentence():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 runs of four:
    # the fourth root of 0.8 * 0.75 * 0.667 * 0.5
    assert rewards.bleu(batch(["a b c d e"], ["a b c d f"])) == pytest.approx([0.2**0.25])
    # one of two characters and none of one pair: precision and recall are (0.5 + 0) / 2
    assert rewards.chrf(batch(["ab"], ["ac"])) == pytest.approx([0.25])
    assert rewards.bleu(batch(["Es ist spät."], ["Es ist spät."])) == pytest.approx([1])
    assert rewards.chrf(batch(["x y z"], ["x y z"])) == pytest.approx([1])


def test_instructions_pay_the_share_that_is_followed():
    short = Instruction(
        name="length_constraints:number_words", arguments={"num_words": 4, "relation": "less than"}
    )
    no_comma = Instruction(name="punctuation:no_comma", arguments={})
    both = [short, no_comma]
    given = batch(["Yes, it is", "It is", "It is"], instructions=[both, both, []])
    assert rewards.instructions(given) == [0.5, 1, 0]


def test_mutual_information_prefers_the_answer_to_one_that_fits_any_query(student):
    (query,) = student.text_prompts(["What is the capital of France?"])
    texts = ("The capital of France is Paris.", "I am here to help.")
    ids = [[*student.tokenizer(text).input_ids, EOS] for text in texts]
    right, generic = mutual_information(student, [query, query], ids)
    assert right > generic + 0.5


def test_teacher_pmi_is_the_mutual_information_without_adapter(small_student):
    student = Student(small_student.config).eval()
    (query,) = student.text_prompts(["What is the capital of France?"])
    ids = [student.tokenizer("Paris.").input_ids]
    expected = mutual_information(student, [query], ids)
    model = get_peft_model(student, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    given = RewardBatch(model, None, [Example(None, None, query, query, [])], ids, ["Paris."])
    assert mutual_information(student, [query], ids) != pytest.approx(expected, abs=1e-4)
    assert rewards.teacher_pmi(given) == pytest.approx(expected, abs=1e-4)


def test_sequence_logps_do_not_depend_on_the_batch(small_student):
    student = small_student
    prompts = student.text_prompts(["What is the capital of France?", "Who are you?"])
    ids = student.tokenizer(["Paris.", "I am an assistant made to help."]).input_ids
    together = sequence_logps(student, prompts, ids)
    alone = [sequence_logps(student, [p], [i]).item() for p, i in zip(prompts, ids, strict=True)]
    assert together.tolist() == pytest.approx(alone, abs=1e-2)
