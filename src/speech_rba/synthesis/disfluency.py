"""Disfluencies of spontaneous speech: fillers, repeated words, corrected false starts, pauses."""

import numpy as np

PAUSE = "|"  # between two words of a text: a pause
FILLERS = ("um,", "uh,", "er,", "you know,", "like,", "well,")
CORRECTIONS = ("I mean,", "no, sorry,", "or rather,")
MAX_SLIPS = 3


def hesitant(text: str, rng: np.random.Generator) -> str:
    """`text` with one to MAX_SLIPS disfluencies; it keeps every word, in order. A text without words is
    unchanged."""
    words = text.split()
    if not words:
        return text
    places = rng.integers(len(words), size=rng.integers(1, MAX_SLIPS + 1)).tolist()
    for place in sorted(places, reverse=True):  # from the end on, so that no place moves
        words[place:place] = SLIPS[rng.integers(len(SLIPS))](words[place:], words[:place], rng)
    return " ".join(words)


def _filler(_after: list[str], _before: list[str], rng: np.random.Generator) -> list[str]:
    return [str(rng.choice(FILLERS))]


def _pause(_after: list[str], before: list[str], _rng: np.random.Generator) -> list[str]:
    return [PAUSE] if before else ["um,", PAUSE]


def _repeat(after: list[str], _before: list[str], rng: np.random.Generator) -> list[str]:
    """The next word or two, which the speaker repeats."""
    return [f"{word.rstrip('.,;:!?')}," for word in after[: rng.integers(1, 3)]]


def _correction(after: list[str], _before: list[str], rng: np.random.Generator) -> list[str]:
    """A later word, which the speaker takes back."""
    return [f"{str(rng.choice(after)).rstrip('.,;:!?')},", str(rng.choice(CORRECTIONS))]


SLIPS = (_filler, _pause, _repeat, _correction)
