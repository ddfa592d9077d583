"""The conditions that speech is recorded in, by name: what strength each draws, and what it does to the speech.

A condition that is `heldout` degrades held-out speech alone: neither alignment nor the asr_adapter are trained in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speech_rba.config import Voice
from speech_rba.records import Condition
from speech_rba.synthesis import augment
from speech_rba.synthesis.disfluency import hesitant

Talkers = Callable[[np.random.Generator], list[np.ndarray]]  # draws the voices of a babble
Degrade = Callable[[np.ndarray, dict[str, float], np.random.Generator, Talkers], np.ndarray]


@dataclass(frozen=True)
class Degradation:
    """`degrade` is what becomes of the sound, `reword` of the words; `strengths` are ranges of `voice` it draws from."""

    degrade: Degrade
    strengths: tuple[str, ...] = ()
    heldout: bool = False
    reword: Callable[[str, np.random.Generator], str] | None = None


def _noise(make: Callable[[int, np.random.Generator], np.ndarray], **more) -> Degradation:
    def degrade(audio, strength, rng, _):
        return augment.with_noise(audio, make(len(audio), rng), strength["snr_db"])

    return Degradation(degrade, ("snr_db",), **more)


def _babble(audio, strength, rng, talkers):
    return augment.with_noise(audio, augment.babble(talkers(rng), len(audio), rng), strength["snr_db"])


CONDITIONS: dict[Condition, Degradation] = {
    "clean": Degradation(lambda audio, *_: audio),
    "white_noise": _noise(augment.white_noise),
    "pink_noise": _noise(augment.pink_noise),
    "hum": _noise(augment.hum),
    "babble": Degradation(_babble, ("snr_db",)),
    "room": Degradation(lambda audio, s, rng, _: augment.in_room(audio, s["rt60_s"], rng), ("rt60_s",)),
    "telephone": Degradation(lambda audio, *_: augment.telephone(audio)),
    "clipped": Degradation(lambda audio, s, *_: augment.clipped(audio, s["drive_db"]), ("drive_db",)),
    "hesitant": Degradation(lambda audio, *_: audio, reword=hesitant),
    "muffled": Degradation(
        lambda audio, s, *_: augment.muffled(audio, s["cutoff_hz"]), ("cutoff_hz",), heldout=True
    ),
    "packet_loss": Degradation(
        lambda audio, s, rng, _: augment.packets_lost(audio, s["lost_share"], rng),
        ("lost_share",),
        heldout=True,
    ),
}

NOISES = ("white_noise", "pink_noise", "hum", "babble")
TRAINED = tuple(name for name, condition in CONDITIONS.items() if not condition.heldout)
DEGRADED = tuple(name for name in CONDITIONS if name != "clean")
SOUND = tuple(
    name for name in DEGRADED if not CONDITIONS[name].reword
)  # what a recording can still be put into


def draw_strength(name: str, voice: Voice, rng: np.random.Generator) -> dict[str, float]:
    """How much the condition called `name` degrades one clip."""
    return {
        strength: round(rng.uniform(*getattr(voice, strength)), 3) for strength in CONDITIONS[name].strengths
    }


def in_turn(names: Sequence[str], first: int, num: int) -> list[str]:
    """`num` of `names` from place `first * num` on, beginning anew after the last: over many, all come as often."""
    return [names[(first * num + k) % len(names)] for k in range(num)]
