"""Whole sentences of written answers."""

import re


def whole_sentences(text: str, finished: bool) -> str:
    """The whole sentences of an answer that the token limit may have cut; empty if no sentence ended."""
    text = " ".join(text.split())
    if finished:
        return text
    ends = [m.end() for m in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""


def settled(text: str) -> str:
    """The beginning of an unfinished answer that remains whatever follows, if a cut leaves whole sentences.

    The first sentence always does: an answer without a whole sentence stays as it is. A later one does once
    it has ended. A character whose bytes are not all there has not arrived.
    """
    text = text.rstrip("\ufffd").lstrip()
    if ends := [m.end() for m in re.finditer(r"[.!?](?=\s)", text)]:
        return " ".join(text[: ends[-1]].split())
    # other white space becomes one space if a sentence ends behind it, and stays if none does
    return re.split(r"\s\s|[^\S ]", text)[0].rstrip()
