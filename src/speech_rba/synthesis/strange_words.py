"""Words that nobody expects, so that a word is heard by its sound and not guessed from what the texts are about."""

import re

import numpy as np

MIN_LETTERS = 4  # of a word that may be replaced, and of what replaces it
MAX_WORDS = 3


def whole_words(vocabulary: dict[str, int]) -> list[str]:
    """The words, many of them names, that are one token of a byte-level BPE vocabulary; in its order."""
    words = [piece[1:] for piece in sorted(vocabulary, key=vocabulary.__getitem__) if piece[0] == "Ġ"]
    return [word for word in words if len(word) >= MIN_LETTERS and re.fullmatch("[A-Za-z][a-z]+", word)]


def with_strange_words(text: str, words: list[str], rng: np.random.Generator) -> str:
    """`text` with one to three of its longer words replaced by any of `words`; what punctuation they had stays."""
    said = text.split()
    longer = [i for i, word in enumerate(said) if sum(map(str.isalpha, word)) >= MIN_LETTERS]
    for i in rng.permutation(longer)[: rng.integers(1, MAX_WORDS + 1)]:
        said[i] = re.sub(r"[A-Za-z'’-]+", lambda _: words[rng.integers(len(words))], said[i], count=1)
    return " ".join(said)
