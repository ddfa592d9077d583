"""One recording: who says what, how fast, how loud and in which condition, all drawn by its id; and its sound."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from speech_rba.config import Voice
from speech_rba.errors import UserError
from speech_rba.records import Attribute, Clip
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS, DEGRADED, NOISES, TRAINED, draw_strength, in_turn
from speech_rba.synthesis.voices import voices

CLEAN_SHARE = 0.1


@dataclass(frozen=True)
class Setting:
    """What a attribute of speaking asks of a recording; None leaves it open."""

    speaker: dict[str, str] = field(default_factory=dict)  # fields of voices.Speaker and their values
    rate: tuple[float, float] | None = None
    conditions: tuple[str, ...] | None = None

    def allows(self, voice: str) -> bool:
        return all(getattr(voices.VOICES[voice], name) == value for name, value in self.speaker.items())

    def holds(self, clip: Clip) -> bool:
        """Whether `clip` is as this asks, by purpose or by chance."""
        in_rate = self.rate is None or self.rate[0] <= clip.rate <= self.rate[1]
        in_condition = self.conditions is None or clip.condition in self.conditions
        return self.allows(clip.voice) and in_rate and in_condition


SETTINGS = {
    "gender": {gender: Setting(speaker={"gender": gender}) for gender in ("woman", "man")},
    "accent": {accent: Setting(speaker={"accent": accent}) for accent in ("American", "British")},
    "rate": {"slow": Setting(rate=(0.7, 0.8)), "fast": Setting(rate=(1.3, 1.5))},
    "noise": {"noisy": Setting(conditions=NOISES), "quiet": Setting(conditions=("clean",))},
    "line": {"telephone": Setting(conditions=("telephone",)), "direct": Setting(conditions=("clean",))},
}


def setting_of(attribute: Attribute | None) -> Setting:
    """What `attribute` asks; nothing where there is none.

    Raises:
        UserError: nothing here can be spoken in that attribute.
    """
    if attribute is None:
        return Setting()
    try:
        return SETTINGS[attribute.name][attribute.value]
    except KeyError:
        known = "; ".join(f"{name}: {', '.join(values)}" for name, values in SETTINGS.items())
        raise UserError(
            f"no clip can be {attribute.value!r} in {attribute.name!r}; there are {known}"
        ) from None


def seed_of(voice: Voice, purpose: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{voice.seed} {purpose} {key}".encode()).digest()[:4])


def draw_speech(
    voice: Voice,
    key: str,
    allowed: list[str],
    row_id: str,
    suite: str,
    split: str,
    text: str,
    setting: Setting,
) -> dict:
    """The fields of Clip that all recordings of one speech share; one of the `allowed` voices speaks as `setting` asks.

    Raises:
        UserError: no allowed voice sounds like that.
    """
    if not (able := [name for name in allowed if setting.allows(name)]):
        raise UserError(
            f"{key}: none of {', '.join(allowed)} sounds like {setting.speaker}; change heldout_voices"
        )
    rng = np.random.default_rng(seed_of(voice, "speech", key))
    name = voices.draw_voice(able, rng)
    return {
        "row_id": row_id,
        "suite": suite,
        "split": split,
        "transcript": text,
        "voice": name,
        "engine": name.partition("-")[0],
        "heldout_voice": name in (*voice.heldout_voices, *voice.validation_voices),
        "rate": round(rng.uniform(*(setting.rate or voice.rate)), 3),
        "pitch_semitones": round(rng.uniform(*voice.pitch_semitones), 3),
        "level_db": round(rng.uniform(*voice.level_db), 2),
    }


def draw_condition(voice: Voice, clip_id: str) -> str:
    rng = np.random.default_rng(seed_of(voice, "condition", clip_id))
    return "clean" if rng.random() < CLEAN_SHARE else str(rng.choice([c for c in TRAINED if c != "clean"]))


def draw_clip(voice: Voice, clip_id: str, condition: str, speech: dict) -> Clip:
    rng = np.random.default_rng(seed_of(voice, "strength", clip_id))
    chosen = CONDITIONS[condition]
    return Clip(
        id=clip_id,
        path=f"clips/{clip_id}.flac",
        condition=condition,
        heldout_condition=chosen.heldout,
        strength=draw_strength(condition, voice, rng),
        spoken=chosen.reword(speech["transcript"], rng) if chosen.reword else speech["transcript"],
        seed=seed_of(voice, "audio", clip_id),
        duration_s=0.0,
        sha256="",
        **speech,
    )


@dataclass
class HeldOut:
    """Plans the clips of the texts of a split that no training sees, which come one after the other.

    Every second text is spoken by a voice that the split has for itself. Validation meets no condition that is held
    out for the test.
    """

    voice: Voice
    split: Literal["validation", "test"]
    number: int = 0

    def clips(
        self,
        key: str,
        row_id: str,
        suite: str,
        text: str,
        num_conditions: int,
        setting: Setting | None = None,
    ) -> list[Clip]:
        """The clips of the next text, clean and in the conditions whose turn it is, or as `setting` asks."""
        setting, number, voice = setting or Setting(), self.number, self.voice
        self.number += 1
        own = voice.heldout_voices if self.split == "test" else voice.validation_voices
        speakers = own if number % 2 else voices.training_voices(voice)
        speech = draw_speech(voice, key, speakers, row_id, suite, self.split, text, setting)
        hard = DEGRADED if self.split == "test" else [name for name in TRAINED if name != "clean"]
        takes = ["clean", *in_turn(hard, number // 2, num_conditions)]
        if setting.conditions:
            takes = in_turn(setting.conditions, number // 2, 1)
        return [draw_clip(voice, f"{key}-{condition}", condition, speech) for condition in takes]


def in_condition(speech: np.ndarray, clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    """`speech` as `clip` says it is hypotheses: in its condition, then at its level; `(N,)` at 16 kHz."""
    others = [talker for talker in talkers if talker[0] != clip.voice]

    def draw_talkers(rng: np.random.Generator) -> list[np.ndarray]:
        return [voices.talk(*others[i]) for i in rng.choice(len(others), augment.NUM_TALKERS, replace=False)]

    rng = np.random.default_rng(clip.seed)
    degraded = CONDITIONS[clip.condition].degrade(speech, clip.strength, rng, draw_talkers)
    return augment.at_level(degraded, clip.level_db)
