"""The speaker of a voice, which every engine states for each of its voices."""

from typing import Literal, NamedTuple


class Speaker(NamedTuple):
    """The gender and the accent of a voice."""

    gender: Literal["woman", "man"]
    accent: Literal["American", "British", "Scottish", "Caribbean", "foreign"]
