"""Overlap between training text and the questions of the benchmarks."""

from speech_rba.data.measures import normalize


def ngrams(words: list[str], n: int) -> set[tuple[str, ...]]:
    """Every run of `n` consecutive words; none when there are fewer."""
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def overlaps(texts: list[str], questions: list[str], n: int) -> list[bool]:
    """For each text whether it shares `n` consecutive words with a question, or equals one, both normalised.

    A question shorter than `n` words counts only as a whole: its n-grams are common in any text.
    """
    words_by_question = [normalize(question).split() for question in questions]
    runs = {run for words in words_by_question for run in ngrams(words, n)}
    short = {tuple(words) for words in words_by_question if 0 < len(words) < n}
    words_by_text = [normalize(text).split() for text in texts]
    return [tuple(words) in short or not runs.isdisjoint(ngrams(words, n)) for words in words_by_text]
