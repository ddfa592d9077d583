"""How people say what they have not thought out: fillers, repeated words, false starts that they correct, pauses."""

import numpy as np

PAUSE = "|"  # stands between two words of a text that is spoken with a pause there
FILLERS = ("um,", "uh,", "er,", "you know,", "like,", "well,")
CORRECTIONS = ("I mean,", "no, sorry,", "or rather,")
MAX_SLIPS = 3


def hesitant(text: str, rng: np.random.Generator) -> str:
    """`text` with one to three slips of the tongue; every word of it is still there, in order."""
    words = text.split()
    if not words:
        return text
    for place in sorted(rng.integers(len(words), size=rng.integers(1, MAX_SLIPS + 1)).tolist(), reverse=True):
        words[place:place] = SLIPS[rng.integers(len(SLIPS))](words[place:], words[:place], rng)
    return " ".join(words)


def _filler(_after: list[str], _before: list[str], rng: np.random.Generator) -> list[str]:
    return [str(rng.choice(FILLERS))]


def _pause(_after: list[str], before: list[str], _rng: np.random.Generator) -> list[str]:
    return [PAUSE] if before else ["um,", PAUSE]


def _repeat(after: list[str], _before: list[str], rng: np.random.Generator) -> list[str]:
    """The next word or two, begun once more."""
    return [f"{word.rstrip('.,;:!?')}," for word in after[: rng.integers(1, 3)]]


def _correction(after: list[str], _before: list[str], rng: np.random.Generator) -> list[str]:
    """A later word said too early, taken back."""
    return [f"{str(rng.choice(after)).rstrip('.,;:!?')},", str(rng.choice(CORRECTIONS))]


SLIPS = (_filler, _pause, _repeat, _correction)
