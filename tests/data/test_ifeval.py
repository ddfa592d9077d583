"""Every type of instruction, each with a response that follows it and one that does not."""

import pytest

from speech_rba.data.ifeval import CHECKERS, OFFICIAL, follows, follows_loosely, sentence_splitter
from speech_rba.errors import UserError

AT_LEAST, LESS = "at least", "less than"
CASES = [
    ("keywords:existence", {"keywords": ["tea", "milk"]}, "Milk and TEA.", "Tea and sugar."),
    ("keywords:frequency", {"keyword": "no", "frequency": 2, "relation": AT_LEAST}, "No, no.", "No."),
    ("keywords:frequency", {"keyword": "no", "frequency": 2, "relation": LESS}, "No.", "No, no."),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "A catalogue.", "My Cat sleeps."),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 3, "let_relation": AT_LEAST},
        "Eel, we",
        "eel",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein guter Tag für uns.",
        "This is a good day for us.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LESS},
        "One here.",
        "One here. Two here.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one ***\ntwo", "one *** *** two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, "one, two, three", "one two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"},
        "Hm.\n\nWell, yes.",
        "Well.\n\nHm.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. Write!", "Bye. PS Write!"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\np.p.s again", "Bye.\nP.S. once"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*one* and *two*",
        "*one* and **",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<Spring>>\nIt rains.", "<< >>\nIt rains."),
    ("combination:two_responses", {}, "Tea.\n******\nMilk.", "Tea.\n******\nTea."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi!"),
    ("startend:end_checker", {"end_phrase": "Anything else?"}, 'Done. Anything else?"', "Anything else? No."),
    ("startend:quotation", {}, ' "Good." ', '"Good" he said.'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LESS},
        "GO now",
        "GO NOW",
    ),
    ("change_case:english_capital", {}, "THIS IS A GOOD DAY.", "This is a good day."),
    (
        "change_case:english_lowercase",
        {},
        "the weather is good for all of us here.",
        "The weather is good for us.",
    ),
    ("punctuation:no_comma", {}, "Tea and milk.", "Tea, milk."),
    ("change_case:capital", {}, "WATER BOILS AT ONE HUNDRED DEGREES.", "WATER BOILS at 100 DEGREES."),
    ("change_case:lowercase", {}, "water boils.", "Water boils."),
]
DATES, COUNTRY = "Dr. Bo saw Mr. Li at 5 p.m. on Jan. 3rd.", "He is in the U.S. He likes it."
AS_THE_OFFICIAL_CODE = [  # instruction, arguments, response, verdict of the official code
    ("keywords:frequency", {"keyword": " tea ", "frequency": 2, "relation": AT_LEAST}, "tea, tea.", True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, DATES, True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": AT_LEAST}, COUNTRY, True),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        "one\ntwo\nthree",
        False,
    ),
    ("length_constraints:number_words", {"num_words": 2, "relation": LESS}, "i\u0307stanbul", True),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 5, "capital_relation": AT_LEAST},
        "IT IS MARY'S. GO.",
        True,
    ),  # IT, IS, MARY, 'S, GO
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "well"},
        "\"'Well, yes.",
        False,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "well"},
        "'\"Well's",
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "ΣΟΣ"},
        "ΣΟΣ",
        False,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "well"},
        "\n\nWell.",
        False,
    ),
    ("detectable_content:postscript", {"postscript_marker": " P.S."}, "Bye. P. S. Write!", True),
    ("detectable_content:postscript", {"postscript_marker": " P.S."}, "Bye. P. P. Write!", False),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day ", "num_sections": 2},
        "Day1 a\nDay 2 b",
        True,
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day ", "num_sections": 1},
        "Day  1 a",
        False,
    ),
    ("detectable_format:json_format", {}, "```json```JSON\n{}```", True),
    ("detectable_format:json_format", {}, "```jSON\n{}```", False),
    ("detectable_format:json_format", {}, "[" * 5000, False),
    ("detectable_format:title", {}, "<<><>>", True),
    ("detectable_format:title", {}, "<<>>", False),
    (
        "change_case:english_capital",
        {},
        "WATER BOILS AT ONE HUNDRED DEGREES.",
        False,
    ),  # langdetect: not English
    ("change_case:english_capital", {}, "123", False),
]


@pytest.mark.parametrize(("instruction", "arguments", "right", "wrong"), CASES)
def test_a_response_follows_the_instruction_or_not(instruction, arguments, right, wrong):
    assert follows(right, instruction, arguments)
    assert not follows(wrong, instruction, arguments)
    assert not follows(" ", instruction, arguments)


def test_every_type_has_a_case():
    assert {case[0] for case in CASES} == set(CHECKERS) and len(OFFICIAL) == 25


@pytest.mark.parametrize(("instruction", "arguments", "response", "follows_it"), AS_THE_OFFICIAL_CODE)
def test_the_verdict_is_that_of_the_official_code(instruction, arguments, response, follows_it):
    assert follows(response, instruction, arguments) == follows_it


def test_sentences_are_split_by_the_trained_english_punkt():
    cut = sentence_splitter().tokenize
    assert cut("Prof. Li met Mr. Bo. Yes!") == ["Prof. Li met Mr. Bo.", "Yes!"]
    assert cut("Acme Inc. grew. J. K. Rowling wrote.") == ["Acme Inc. grew.", "J. K. Rowling wrote."]


def test_the_loose_criteria_allow_an_introduction_a_closing_line_and_asterisks():
    response = 'Sure, here it is:\n*"Tea is good."*\nAnything else, sir?'
    assert not follows(response, "startend:quotation", {})
    assert follows_loosely(response, "startend:quotation", {})
    assert follows_loosely(response, "punctuation:no_comma", {})
    assert not follows_loosely("Well, no.", "punctuation:no_comma", {})


def test_unknown_instructions_and_arguments_are_refused():
    with pytest.raises(ValueError, match="no instruction 'keywords:rhyme'; allowed: keywords:existence"):
        follows("x", "keywords:rhyme", {})
    with pytest.raises(ValueError, match="number_words does not take"):
        follows("x", "length_constraints:number_words", {"words": 3})
    with pytest.raises(UserError, match=r"keywords:existence: .*'\(tea'.* holds no regular expression"):
        follows("x", "keywords:existence", {"keywords": ["(tea"]})
    with pytest.raises(ValueError, match="no relation 'around'"):
        follows("x", "length_constraints:number_words", {"num_words": 3, "relation": "around"})


def test_null_arguments_of_the_official_file_are_ignored():
    assert follows("tea", "punctuation:no_comma", {"num_words": None})
