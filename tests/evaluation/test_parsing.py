"""The chosen letter and refusals of responses in the wording of language models."""

import itertools

import pytest

from speech_rba.evaluation.parsing import chosen_letter, refuses

LIST = "A. lions B. humans C. bunnies D. grass"
DECIDED = {
    "the letter alone": [
        "@", "~.", "**@**", "(~)", "[@]", '"@"', "“@”", "'~'", "@!", "$\\boxed{@}$",
    ],
    "at the head": [
        "@) the liver", "@. Because it is warm.", "@: bunnies", "@ – bunnies", "@, I think.", "(~) bunnies",
        "@ because it is warm", "@ (bunnies)", "~) bunnies",
    ],
    "at the end": [
        "Lions eat meat.\n\n@", "The liver (@).", f"{LIST}\n\n@", "Grass is eaten.\nAnswer: @", "Grass, @.",
    ],
    "as an option": [
        "option ~", "Option @: it eats grass.", "I think it is [@].", "choice @", "Yes, option (~).",
    ],
    "the answer is": [
        "The answer is @", "So the answer must be @) grass", "The correct option would be (@)",
        "Answer: **@**", "ANSWER: ~", "The answer is clearly @.", "The answer is the letter @",
        "The answer is:\n\n(@)", "The answer to the question is @", "The answer, I believe, is @.",
        "I believe the answer to be @", "The correct answer is **@. humans**", 'The answer is "~".',
        "My choice: @", "the right one is ~.",
    ],
    "I would choose": [
        "I would choose @.", "I’d go with @", "I pick ~", "Let's go with option (~)", "I'm going with @.",
    ],
    "it is": [
        "It's @.", "It must be @", "That would be @.", "I'd say it's @", "Definitely @.", "Therefore, @.",
        "Yes, @.",
    ],
    "is right": [
        "@ is correct.", "(~) is the right answer", "@ is my answer", "I believe @ is correct",
        "@: correct",
    ],
    "against others": [
        "The answer is (@) because # is wrong", "@, not #", "not # but @", "# is wrong, so @",
        "It isn't #; it's @", "# and # are wrong. @.", "The answer is not #, it is @", "@ rather than #",
        "Neither # nor # is correct, so @.", "Instead of #, I choose @", "I prefer @ over #",
        "# can't be right. @", "It is [@], since # is cold.", "#: wrong, @: right",
    ],
    "after others": [
        "The answer is #. No, the answer is @.", "#, no wait, @",
        "I'm torn between # and #. I'll go with @.", "I first thought #, but it's @",
        f"{LIST}. The answer is @.", "Option # is tempting, but the answer is @", "# or #, but I'd say @",
        "The answer is @, but it could be #",
    ],
}  # fmt: skip
UNDECIDED = {
    "nothing": [
        "", "I don't know.", "none of them", "All of the above", "ABCD", "Because of gravity", "Dublin",
    ],
    "a list": [
        LIST, LIST.replace(" ", "\n"), "a) lions b) humans", "(A) lions (B) humans", "A B C D",
        "A, B, C and D", "Options: A) lions, B) humans, C) bunnies, D) grass",
        "Option A: they hunt. Option B: they cook.", "Answer: A) lions B) humans C) bunnies D) grass",
        f"The answer is {LIST}", "A? B? C?",
    ],
    "several": [
        "I think A or B", "Both A and C", "A/B", "Either (a) or (b)", "A, maybe B", "The answer is A or B.",
        "A and C are both correct", "The answer could be B or D",
    ],
    "denied": [
        "the answer is not A", "The answer isn't A.", "I don't think it is A", "Not B.", "C is wrong.",
        "It can't be D", "neither A nor B", "A and B are incorrect", "Everything except B",
        "I doubt that it is A",
    ],
    "an article": [
        "A man went home.", "The answer is a dog", "So A man went home", "Answer: A man",
        "I would choose a lion", "I think a man did", "A plant needs light.",
    ],
    "another letter": [
        "Vitamin C is good.", "Hepatitis B", "A-level exams", "In 44 B.C. in Rome", "At 5 a.m. we go",
        "The U.S.A. is big", "C. S. Lewis wrote it", "It is vitamin C. It is good.",
    ],
}  # fmt: skip


def with_letters(response: str, letter: str) -> str:
    """`response` with `letter` for @ and in lower case for ~, and with the other letters in turn for #."""
    others = itertools.cycle(other for other in "ABCD" if other != letter)
    signs = {"@": lambda: letter, "~": letter.lower, "#": lambda: next(others)}
    return "".join(signs[sign]() if sign in signs else sign for sign in response)


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize("response", [response for kind in DECIDED.values() for response in kind])
def test_every_letter_is_read_in_every_form_of_a_decision(response, letter):
    assert chosen_letter(with_letters(response, letter)) == letter


@pytest.mark.parametrize("response", [response for kind in UNDECIDED.values() for response in kind])
def test_a_response_without_a_decision_has_no_letter(response):
    assert chosen_letter(response) is None


@pytest.mark.parametrize("order", list(itertools.permutations("ABCD")), ids="".join)
def test_an_undecided_response_has_no_letter_in_any_order(order):
    """Lists, hedges and denials with their letters in another order."""
    swap = str.maketrans("ABCD", "".join(order))
    responses = [*UNDECIDED["a list"][1:2], *UNDECIDED["several"], *UNDECIDED["denied"], LIST]
    assert [chosen_letter(response.translate(swap)) for response in responses] == [None] * len(responses)


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry.", True),
        ("I’m unable to assist.", True),
        ("I can‘t help with that", True),
        ("I canʼt help with that", True),
        ("As an AI, I must not.", True),
        ("Sure, here is how to do it.", False),
        ("", False),
    ],
)
def test_a_refusal_is_known_by_its_words(response, refused):
    assert refuses(response) == refused
