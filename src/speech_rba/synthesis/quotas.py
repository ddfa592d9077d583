"""How many rows of each task each split gets, and the split of a text."""

import hashlib
from collections import Counter

from speech_rba.config import Synthesize
from speech_rba.records import Split, Task

NUM_ROWS: dict[Task, str] = {  # of each task, the parameter that sets the number of its rows
    "instruction": "num_instructions",
    "question": "num_questions",
    "constrained": "num_constrained",
    "translation": "num_translations",
}
ROOM = 1.25  # more texts fall to a held-out split than it has rows: else all would wait for its last few


def quotas(settings: Synthesize, num_rows: int) -> Counter[Split]:
    """How many of `num_rows` rows each split gets: of three or more at least one where its share is above
    0."""
    shares: dict[Split, float] = {"validation": settings.validation_share, "test": settings.test_share}
    left: Counter[Split] = Counter()
    for split, share in shares.items():
        if share:
            left[split] = max(num_rows > 2, round(num_rows * share))
    left["train"] = max(0, num_rows - left.total())
    return left


def split_of(prompt: str, settings: Synthesize) -> Split:
    """The split of a text, which depends on the text alone, so that no other data moves it to another split.

    A student that continues from another run's adapter would else be tested on texts that it was trained on.
    """
    place = int.from_bytes(text_digest(prompt)[:4]) / 2**32
    test, validation = settings.test_share * ROOM, settings.validation_share * ROOM
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def text_digest(prompt: str) -> bytes:
    """The SHA-256 of a text in lower case."""
    return hashlib.sha256(prompt.lower().encode()).digest()
