"""Scores of one response against reference answers: pure functions of texts."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from speech_rba.errors import UserError
from speech_rba.evaluation.parsing import plain

ARTICLES = {"a", "an", "the"}
UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten",
    "eleven",
    "twelve",
    *(f"{stem}teen" for stem in ("thir", "four", "fif", "six", "seven", "eigh", "nine")),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
VALUES = {word: value for value, word in enumerate(("zero", *UNITS, *TEENS))}
VALUES |= {word: 10 * value for value, word in enumerate(TENS, 2)}
_UNIT, _TEEN, _TEN = ("|".join(words) for words in (UNITS, TEENS, TENS))
_ORDINAL = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
_BELOW_100 = rf"(?:(?:{_TEN})(?:[- ](?:{_UNIT})\b|(?![- ](?:{_ORDINAL})\b))|{_TEEN}|{_UNIT})\b"
_BELOW_1000 = (
    rf"(?:(?:(?:a|{_UNIT}|{_TEEN}|(?<![\d.,])[1-9]\d?) )?hundred\b"
    rf"(?: (?:and )?{_BELOW_100}(?! (?:hundred|thousand)\b))?|{_BELOW_100})"
)
NUMBER = re.compile(
    rf"\b(?:(?:(?:a|{_BELOW_1000}|(?<![\d.,])[1-9]\d{{,2}}) )?thousand\b(?: (?:and )?{_BELOW_1000})?"
    rf"|{_BELOW_1000}|zero\b)"
)


def answer_tokens(text: str) -> list[str]:
    """The words of `text` that count in an answer: lower case, without accents, punctuation and articles.

    It differs from SQuAD's normaliser: a hyphen, slash, comma or colon separates two words, because speech
    recognition writes `Coca-Cola` as two; a number is its digits (`forty-two`, `1,000`) with its decimal
    point; initials are joined (`J. K.`, `U.S.`); a possessive s is left out; typographic signs are replaced
    by plain ones.
    """
    return _words(re.sub(r"'s\b", "", _plain_letters(text)))


def contains_answer(response: str, answers: Sequence[str]) -> bool:
    """Whether `response` contains the words of any of `answers` in a row.

    `Newton's` matches Newton, and `McDonald's` matches McDonalds.

    Raises:
        UserError: there is no answer, or an answer has no word left and would match every response.
    """
    if not answers:
        raise UserError("a question without answers cannot be scored; give at least one")
    readings = [answer_tokens(response), _words(_plain_letters(response))]
    return any(_contains(words, answer) for words in readings for answer in answers)


def _plain_letters(text: str) -> str:
    """Lower case without accents, in plain signs; a space separates a fraction from a number before it."""
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}\b)", "", text)  # spaces between thousands
    text = unicodedata.normalize("NFKD", plain(re.sub(r"(?=[¼-¾⅐-⅞])", " ", text)).casefold())
    return "".join(sign for sign in text if not unicodedata.combining(sign))


def _words(text: str) -> list[str]:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.split()))
    text = NUMBER.sub(lambda number: str(_value(re.findall(r"\w+", number[0]))), text)
    text = re.sub(r"\b([a-z])\. (?=[a-z]\.)", r"\1", text)  # initials
    text = re.sub(r"[-/⁄,:;!?]|\.{2,}|(?<=[a-z]{2})\.(?=\d|\w\w)", " ", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]|_", "", text)
    return [word for word in text.split() if word not in ARTICLES]


def _value(words: list[str]) -> int:
    """The value of a number in words: 205 for two, hundred, and, five."""
    thousands, rest = 0, 0
    for word in words:
        if word == "thousand":
            thousands, rest = (rest or 1) * 1000, 0
        elif word == "hundred":
            rest = (rest or 1) * 100
        elif word not in ("a", "and"):
            rest += int(word) if word.isdigit() else VALUES[word]
    return thousands + rest


def is_right(response: str, answers: Sequence[str], wrong: Sequence[str] = ()) -> bool:
    """Whether `response` contains one of `answers` and none of `wrong`: `a man or a woman` is no answer."""
    return contains_answer(response, answers) and not (wrong and contains_answer(response, wrong))


def _contains(response_words: list[str], answer: str) -> bool:
    forms = answer_tokens(answer), _words(_plain_letters(answer))
    if not all(forms):
        raise UserError(f"the answer {answer!r} is articles or punctuation alone; word it longer")
    starts = range(len(response_words))
    return any(response_words[i : i + len(words)] == words for words in forms for i in starts)


def token_f1(response: str, reference: str) -> float:
    """SQuAD's F1 over the bags of words, 0 to 1; 1 for two texts without words."""
    given, expected = answer_tokens(response), answer_tokens(reference)
    if not given or not expected:
        return float(given == expected)
    return 2 * (Counter(given) & Counter(expected)).total() / (len(given) + len(expected))
