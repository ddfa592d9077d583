"""Whom a voice sounds like: what every engine states for each of its voices."""

from typing import Literal, NamedTuple


class Speaker(NamedTuple):
    """The gender and the accent of a voice."""

    gender: Literal["woman", "man"]
    accent: Literal["American", "British", "Scottish", "Caribbean"]
