"""The recording conditions by name: the strength that each draws, and its change of the audio or the text.

A condition touches two files: CONDITIONS has its entry, and `voice.conditions` of params.yaml the ranges that
its strengths are drawn from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speech_rba.config import Voice
from speech_rba.errors import UserError
from speech_rba.records import Clip, Condition
from speech_rba.synthesis import augment
from speech_rba.synthesis.disfluency import hesitant

Strength = dict[str, float]  # by the name of its range


@dataclass(frozen=True)
class Draw:
    """All that is drawn for one clip: the strength, a generator, and the background talkers that it draws."""

    strength: Strength
    rng: np.random.Generator
    talkers: Callable[[np.random.Generator], list[np.ndarray]]


@dataclass(frozen=True)
class Degradation:
    """What a condition does: `degrade` changes the audio, `reword` the text before it is spoken."""

    degrade: Callable[[np.ndarray, Draw], np.ndarray] = lambda audio, _: audio
    strengths: tuple[str, ...] = ()  # the names of its ranges, in the order of the draws
    strength_text: str = ""  # a format of the strengths, with their unit, for readers
    is_noise: bool = False  # an attribute question calls it noisy
    heldout: bool = False  # of the test split alone: no training clip is in it
    reword: Callable[[str, np.random.Generator], str] | None = None


def _noise(make: Callable[[int, Draw], np.ndarray]) -> Degradation:
    def degrade(audio: np.ndarray, draw: Draw) -> np.ndarray:
        return augment.with_noise(audio, make(len(audio), draw), draw.strength["snr_db"])

    return Degradation(degrade, ("snr_db",), "{snr_db:.0f} dB SNR", is_noise=True)


CONDITIONS: dict[Condition, Degradation] = {
    "clean": Degradation(),
    "white_noise": _noise(lambda num_samples, draw: augment.white_noise(num_samples, draw.rng)),
    "pink_noise": _noise(lambda num_samples, draw: augment.pink_noise(num_samples, draw.rng)),
    "hum": _noise(lambda num_samples, draw: augment.hum(num_samples, draw.rng)),
    "babble": _noise(lambda num_samples, draw: augment.babble(draw.talkers(draw.rng), num_samples, draw.rng)),
    "room": Degradation(
        lambda audio, draw: augment.in_room(audio, draw.strength["rt60_s"], draw.rng),
        ("rt60_s",),
        "{rt60_s:.1f} s of echo",
    ),
    "telephone": Degradation(lambda audio, _: augment.telephone(audio)),
    "clipped": Degradation(
        lambda audio, draw: augment.clipped(audio, draw.strength["drive_db"]),
        ("drive_db",),
        "{drive_db:.0f} dB too loud",
    ),
    "hesitant": Degradation(reword=hesitant),
    "muffled": Degradation(
        lambda audio, draw: augment.muffled(audio, draw.strength["cutoff_hz"]),
        ("cutoff_hz",),
        "below {cutoff_hz:.0f} Hz",
        heldout=True,
    ),
    "packet_loss": Degradation(
        lambda audio, draw: augment.packets_lost(audio, draw.strength["lost_share"], draw.rng),
        ("lost_share",),
        "{lost_share:.0%} lost",
        heldout=True,
    ),
}

DEGRADED: tuple[Condition, ...] = tuple(name for name in CONDITIONS if name != "clean")
NOISES: tuple[Condition, ...] = tuple(name for name in CONDITIONS if CONDITIONS[name].is_noise)
TRAINED: tuple[Condition, ...] = tuple(name for name in CONDITIONS if not CONDITIONS[name].heldout)
TRAINED_DEGRADED: tuple[Condition, ...] = tuple(name for name in DEGRADED if name in TRAINED)
# A finished recording can be put into these
SOUND: tuple[Condition, ...] = tuple(name for name in DEGRADED if not CONDITIONS[name].reword)


def draw_strength(name: Condition, voice: Voice, rng: np.random.Generator) -> Strength:
    """How much the condition `name` degrades one clip, by the name of each range.

    Raises:
        UserError: the parameters and CONDITIONS differ.
    """
    check_ranges(voice)
    ranges = voice.conditions[name]
    return {
        strength: round(augment.draw_between(ranges[strength], rng), 3)
        for strength in CONDITIONS[name].strengths
    }


def check_ranges(voice: Voice) -> None:
    """Nothing, if the parameters hold the ranges of every condition and no others.

    Raises:
        UserError: a condition or a range is missing or unknown.
    """
    for name in {**voice.conditions, **CONDITIONS}:
        given = sorted(voice.conditions[name]) if name in voice.conditions else None
        needed = sorted(CONDITIONS[name].strengths) if name in CONDITIONS else None
        if given != needed:
            raise UserError(
                f"the condition {name} {_described(given)} in voice.conditions of params.yaml and "
                f"{_described(needed)} in CONDITIONS of src/speech_rba/synthesis/conditions.py: "
                "make both files equal"
            )


def _described(strengths: list[str] | None) -> str:
    if strengths is None:
        return "is missing"
    return f"has the ranges {', '.join(strengths)}" if strengths else "has no range"


def in_turn(names: Sequence[Condition], first: int, num: int) -> list[Condition]:
    """`num` of `names` from place `first * num` on, in a circle: over many calls all names are equally
    frequent."""
    return [names[(first * num + k) % len(names)] for k in range(num)]


def check_conditions(speeches: list[list[Clip]]) -> None:
    """Nothing, if the test rows are recorded in every condition.

    Raises:
        UserError: a condition is missing; its row of the report would be empty.
    """
    test = [clip for speech in speeches for clip in speech if clip.split == "test"]
    if missing := sorted({*DEGRADED} - {clip.condition for clip in test}):
        raise UserError(
            f"{len({clip.row_id for clip in test})} test rows are too few to be recorded in every condition, "
            f"{', '.join(missing)} would be missing: raise synthesize.test_share or the numbers of texts"
        )
