"""The speaker of a voice, which every engine states for each of its voices."""

from typing import NamedTuple

from speech_rba.config import Accent, Gender


class Speaker(NamedTuple):
    """The gender and the accent of a voice."""

    gender: Gender
    accent: Accent
