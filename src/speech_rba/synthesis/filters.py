"""The reasons for which a synthesized text is refused, each with a name."""

import re

from datasketch import MinHash, MinHashLSH
from langdetect import DetectorFactory, LangDetectException, detect_langs

SPEAKABLE = re.compile(r"[A-Za-z0-9 ,.'?!\-]+")
FUNCTION_WORDS = (
    "the a an is are was were be do does did can could would should will i you we he she it they my "
    "your our this that what which who when where why how of in on to for from with about at by and "
    "or not me some any"
)
ENGLISH = frozenset(FUNCTION_WORDS.split())
NUM_PERMUTATIONS = 64
CODES = {"Spanish": "es", "German": "de"}
LENGTH_RATIOS = (0.5, 2.0)  # characters of a translation by those of its source
DetectorFactory.seed = 0  # the detector samples


def query_fault(text: str, finished: bool, min_words: int, max_words: int) -> str | None:
    """Why `text` is no spoken query, or None: `not_speakable`, `unfinished`, `length` or `language`."""
    words = re.findall(r"[A-Za-z0-9']+", text)
    if not SPEAKABLE.fullmatch(text):
        return "not_speakable"
    if not finished:
        return "unfinished"
    if not min_words <= len(words) <= max_words:
        return "length"
    if not ENGLISH & {w.lower() for w in words}:
        return "language"
    return None


def completion_fault(text: str) -> str | None:
    """Why `text` is no answer, or None: `no_completion` or `looping` (four words in a row occur twice)."""
    words = text.lower().split()
    if not words:
        return "no_completion"
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return "looping" if len(set(runs)) < len(runs) else None


def translation_fault(source: str, text: str, language: str) -> str | None:
    """Why `text` is no translation of the English `source`, or None: `untranslated`, `length_ratio` or
    `completion_language` (English is likelier than `language`, a key of `CODES`)."""
    if re.findall(r"\w+", text.lower()) == re.findall(r"\w+", source.lower()):
        return "untranslated"
    if not LENGTH_RATIOS[0] <= len(text) / len(source) <= LENGTH_RATIOS[1]:
        return "length_ratio"
    try:
        likely = {guess.lang: guess.prob for guess in detect_langs(text)}
    except LangDetectException:  # no letters
        return "completion_language"
    return "completion_language" if likely.get("en", 0.0) > likely.get(CODES[language], 0.0) else None


class NearDuplicates:
    """Texts kept so far; `add` compares a text with them (MinHash over word 3-grams, Jaccard similarity)."""

    def __init__(self, threshold: float):
        self.exact: set[str] = set()
        self.index = MinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS)

    def add(self, text: str) -> str | None:
        """`exact_duplicate` or `near_duplicate`; or None, and the text is one of those kept."""
        words = re.findall(r"[a-z0-9']+", text.lower())
        key = " ".join(words)
        if key in self.exact:
            return "exact_duplicate"
        sketch = MinHash(num_perm=NUM_PERMUTATIONS)
        sketch.update_batch([" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))])
        if self.index.query(sketch):
            return "near_duplicate"
        self.exact.add(key)
        self.index.insert(key, sketch)
        return None
