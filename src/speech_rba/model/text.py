"""Whole sentences of written answers."""

import re


def whole_sentences(text: str, finished: bool) -> str:
    """The whole sentences of an answer that the token limit may have cut; empty if no sentence ended."""
    text = " ".join(text.split())
    if finished:
        return text
    ends = [m.end() for m in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""
