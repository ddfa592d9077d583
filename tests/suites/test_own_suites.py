"""The texts in data/ are well formed: no question is repeated, and none contains its answer."""

import re
from collections import Counter
from pathlib import Path

import pytest

from speech_rba.data.ifeval import follows
from speech_rba.records import AttributeQuestion, Question, read_jsonl
from speech_rba.synthesis.plan_clips import SETTINGS

DATA = Path(__file__).parents[2] / "data"


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def holds(text: list[str], part: list[str]) -> bool:
    return any(text[i : i + len(part)] == part for i in range(len(text)))


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return read_jsonl(DATA / "suites/spoken_qa/questions.jsonl", Question)


def test_there_are_enough_questions_and_no_repeated_one(questions):
    assert len(questions) >= 150
    assert len({question.id for question in questions}) == len(questions)
    assert len({tuple(words(question.prompt)) for question in questions}) == len(questions)


def test_questions_can_be_spoken(questions):
    for question in questions:
        assert 4 <= len(words(question.prompt)) <= 14, question.prompt
        assert re.fullmatch(r"[A-Z][A-Za-z ,']+[?.]", question.prompt), question.prompt


def test_no_question_contains_its_answer(questions):
    for question in questions:
        assert question.answers, question.id
        for answer in question.answers:
            assert words(answer) not in ([], ["a"], ["i"]), question.id  # any response would contain these
            assert not holds(words(question.prompt), words(answer)), question.prompt


@pytest.mark.parametrize("language", ["es", "de"])
def test_both_languages_translate_the_same_sentences(language):
    sentences = read_jsonl(DATA / f"suites/translation_{language}/questions.jsonl", Question)
    assert len({sentence.prompt for sentence in sentences}) == len(sentences) == 50
    english = read_jsonl(DATA / "suites/translation_es/questions.jsonl", Question)
    assert [s.prompt for s in sentences] == [s.prompt for s in english]
    for sentence in sentences:
        [translation] = sentence.translations
        assert translation[-1] == sentence.prompt[-1] and translation != sentence.prompt


def test_there_are_enough_topics_and_no_repeated_one():
    topics = (DATA / "topics.txt").read_text().splitlines()
    assert len(topics) == len({topic.lower() for topic in topics}) >= 100
    assert all(re.fullmatch(r"[A-Za-z ]+", topic) for topic in topics)


def test_each_spoken_constraint_is_followed_by_one_answer_and_not_by_another():
    questions = read_jsonl(DATA / "suites/spoken_constraints/questions.jsonl", Question)
    assert len({q.prompt for q in questions}) == len(questions) >= 120
    for question in questions:
        assert re.fullmatch(r"[A-Z][A-Za-z ]+[?.] [A-Z][a-z ]+\.", question.prompt), question.prompt
        [instruction] = question.instructions
        [word] = next((v for v in instruction.arguments.values() if isinstance(v, list)), [""])
        answers = "Yes.", f"It is {word}, as everybody knows who has been there before. It is good."
        assert {follows(text, instruction.name, instruction.arguments) for text in answers} == {True, False}


def test_questions_about_attributes_do_not_reveal_the_attribute():
    questions = read_jsonl(DATA / "suites/attributes/questions.jsonl", Question)
    trained = read_jsonl(DATA / "attribute_questions.jsonl", AttributeQuestion)
    assert not {tuple(words(q.prompt)) for q in questions} & {tuple(words(q.prompt)) for q in trained}
    by_prompt = {q.prompt: Counter() for q in questions}
    for question in questions:
        assert not {tuple(words(a)) for a in question.answers} & {tuple(words(a)) for a in question.wrong}
        by_prompt[question.prompt][question.attribute.value] += 1
    for prompt, values in by_prompt.items():  # equal counts: the same answer to all is right by chance
        name = next(q.attribute.name for q in questions if q.prompt == prompt)
        assert set(values) == set(SETTINGS[name]) and len(set(values.values())) == 1, prompt
    assert all(set(q.answers) == set(SETTINGS[q.name]) for q in trained)
    by_place = Counter((q.attribute.name, q.attribute.value, i % 2) for i, q in enumerate(questions))
    assert len(set(Counter(k[0] for k in by_place).values())) == 1  # in training and in held-out voices
