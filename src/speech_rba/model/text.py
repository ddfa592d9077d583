"""What of a written answer can be spoken."""

import re


def whole_sentences(text: str, finished: bool) -> str:
    """The whole sentences of an answer that the token limit may have cut; empty if none ended."""
    text = " ".join(text.split())
    if finished:
        return text
    ends = [m.end() for m in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""
