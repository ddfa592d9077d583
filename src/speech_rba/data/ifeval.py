"""IFEval's verifiable instructions (arXiv 2311.07911): code that checks whether a response follows them.

The 25 types, their names and their arguments are those of the official prompts (input_data.jsonl). The
verdicts are those of the official code, its quirks included, so that a file of that form is scored as in the
paper. There are two exceptions, where the official code draws at random: its language detector has no seed,
and for a "letter" that is none (one prompt has `#`, one `!`) it counts a random letter. `OWN` are types of
this project, for its suites and rewards.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from langdetect import DetectorFactory, LangDetectException, detect

from speech_rba.assets.resolve import resolve
from speech_rba.errors import UserError
from speech_rba.records import Instruction

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

DetectorFactory.seed = 0  # langdetect samples
PUNCTUATION = ".,?!'\""
FENCES = ("```json", "```Json", "```JSON", "```")
FIXED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def compare(number: int, relation: str, bound: int) -> bool:
    """`relation` is one of IFEval's two: "less than" or "at least"."""
    if relation not in ("less than", "at least"):
        raise UserError(f"no relation {relation!r}; allowed: less than, at least")
    return number < bound if relation == "less than" else number >= bound


def is_language(text: str, language: str) -> bool:
    """Whether `text` is in the language, by its two-letter code; True for text without letters."""
    try:
        return detect(text) == language
    except LangDetectException:
        return True


@cache
def sentence_splitter() -> "PunktSentenceTokenizer":
    """Punkt with the English parameters of NLTK's `punkt_tab`, which a pinned package contains as tables.

    NLTK's own loader reads only its download folders.
    """
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer  # seconds to import

    folder = resolve("pypi:llama-index-core")
    names = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
    abbreviations, collocations, contexts, starters = (
        (folder / n).read_text("utf-8").splitlines() for n in names
    )
    trained = PunktParameters()
    trained.abbrev_types, trained.sent_starters = set(abbreviations), set(starters)
    trained.collocations = {tuple(line.split("\t")) for line in collocations}
    trained.ortho_context.update(
        (word, int(flags)) for word, flags in (line.split("\t") for line in contexts)
    )
    return PunktSentenceTokenizer(trained)


def keyword_existence(text: str, keywords: list[str]) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in keywords)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(len(re.findall(keyword.strip(), text, re.IGNORECASE)), relation, frequency)


def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return is_language(text, language)


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compare(len(sentence_splitter().tokenize(text)), relation, num_sentences)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Separated by `***`; only the first and the last part may be empty, and they do not count then."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and len(list(filter(None, parts))) == num_paragraphs


def number_words(text: str, num_words: int, relation: str) -> bool:
    from nltk.tokenize import RegexpTokenizer  # its \w matches combining marks, that of `re` does not

    return compare(len(RegexpTokenizer(r"\w+").tokenize(text)), relation, num_words)


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are separated by empty lines; the word ends at the first punctuation mark.

    Paragraphs without a word have a number, but do not count.
    """
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > count or not parts[nth_paragraph - 1].strip():
        return False
    unquoted = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    word = re.split(rf"[{PUNCTUATION}]", unquoted)[0]
    # letter by letter: str.lower writes a sigma at the end of a word as another letter
    lowered = "".join(letter.lower() for letter in word)
    return count == num_paragraphs and lowered == first_word.lower()


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """A line with the marker, in upper or lower case; `P.S.` may contain spaces."""
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return bool(re.search(spaced.get(marker, marker.lower()), text.lower()))


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    stars, dashes = (re.findall(form, text, re.MULTILINE) for form in (r"^\s*\*[^*].*$", r"^\s*-.*$"))
    return len(stars) + len(dashes) == num_bullets


def constrained_response(text: str) -> bool:
    return any(fixed in text for fixed in FIXED_RESPONSES)


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """Sections are written *so* or **so** and are not empty."""
    single, double = re.findall(r"\*[^\n*]*\*", text), re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(section.strip("*").strip()) for section in [*single, *double]) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """Sections begin with the splitter and a number; the argument has IFEval's spelling."""
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) - 1 >= num_sections


def json_format(text: str) -> bool:
    """The whole text is JSON, with or without a Markdown fence."""
    bare = text.strip()
    for fence in FENCES:
        bare = bare.removeprefix(fence)
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):  # RecursionError: nested a thousand levels deep
        return False
    return True


def title(text: str) -> bool:
    return any(
        text_of_title.lstrip("<").rstrip(">").strip() for text_of_title in re.findall(r"<<[^\n]+>>", text)
    )


def two_responses(text: str) -> bool:
    """Two different responses, separated by `******`; only the first and the last part may be empty."""
    parts = [part.strip() for part in text.split("******")]
    kept = list(filter(None, parts))
    return all(parts[1:-1]) and len(kept) == 2 and kept[0] != kept[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    from nltk.tokenize import NLTKWordTokenizer

    words = NLTKWordTokenizer()  # it splits only the last full stop off: give it sentences
    sentences = sentence_splitter().tokenize(text)
    capitals = [word for sentence in sentences for word in words.tokenize(sentence) if word.isupper()]
    return compare(len(capitals), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and is_language(text, "en")


def english_lowercase(text: str) -> bool:
    return text.islower() and is_language(text, "en")


def no_comma(text: str) -> bool:
    return "," not in text


def capital(text: str) -> bool:
    """`english_capital` in any language: the detector takes most short answers in capitals for another
    one.
    """
    return text.isupper()


def lowercase(text: str) -> bool:
    return text.islower()


OFFICIAL: dict[str, Callable[..., bool]] = {
    "keywords:existence": keyword_existence,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
OWN: dict[str, Callable[..., bool]] = {"change_case:capital": capital, "change_case:lowercase": lowercase}
CHECKERS = OFFICIAL | OWN


def follows(response: str, instruction: str, arguments: dict) -> bool:
    """Whether a response follows one instruction by the strict criteria; an empty response follows none.

    Raises:
        UserError: there is no such instruction, it has other arguments, or a keyword is no regular
            expression.
    """
    if instruction not in CHECKERS:
        raise UserError(f"no instruction {instruction!r}; allowed: {', '.join(CHECKERS)}")
    present = {name: value for name, value in arguments.items() if value is not None}
    try:
        return bool(response.strip()) and bool(CHECKERS[instruction](response, **present))
    except TypeError as error:
        raise UserError(f"{instruction} does not take {present}: {error}") from error
    except re.error as error:
        raise UserError(
            f"{instruction}: {present} holds no regular expression ({error}); escape it"
        ) from error


def follows_loosely(response: str, instruction: str, arguments: dict) -> bool:
    """Whether the response follows it with or without its first line, its last line and its asterisks.

    The loose criteria of the paper, which allow an introduction, a closing line and Markdown.
    """
    lines = response.split("\n")
    cuts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    forms = [form for cut in cuts for form in (cut, cut.replace("*", ""))]
    return any(follows(form, instruction, arguments) for form in forms)


def followed_share(response: str, instructions: list[Instruction]) -> float:
    """The share of instructions that a response follows by the strict criteria; 1 without instructions."""
    if not instructions:
        return 1.0
    return sum(follows(response, i.name, i.arguments) for i in instructions) / len(instructions)
