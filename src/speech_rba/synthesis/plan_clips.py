"""The plan of a recording, all drawn from the clip's id: its voice, rate, pitch, level, condition and
strength.

No clip depends on the order of the rows or on the process that records it. A training row is spoken with
random settings. A held-out row is spoken by one voice and recorded clean and in several conditions, which
take turns, so that each condition is compared with clean speech in pairs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from speech_rba.config import Voice
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, Attribute, Clip, Condition, Question, Row, Split
from speech_rba.synthesis.conditions import (
    CONDITIONS,
    DEGRADED,
    NOISES,
    TRAINED_DEGRADED,
    draw_strength,
    in_turn,
)
from speech_rba.synthesis.voices import voices
from speech_rba.synthesis.voices.speaker import Speaker

CLEAN_SHARE = 0.1
CONDITIONS_PER_ROW: dict[Split, int] = {"validation": 1, "test": 3}  # besides clean
CONDITIONS_PER_QUESTION = 1  # besides clean


@dataclass(frozen=True)
class Setting:
    """The recording that an attribute needs; None leaves a part open."""

    speaker: dict[str, str] = field(default_factory=dict)  # fields of Speaker and their values
    rate: tuple[float, float] | None = None
    conditions: tuple[Condition, ...] | None = None

    def allows(self, speaker: Speaker) -> bool:
        """Whether `speaker` is one of this setting."""
        return all(getattr(speaker, name) == value for name, value in self.speaker.items())

    def holds(self, clip: Clip) -> bool:
        """Whether `clip`, in a voice of the packages, fits this setting, by purpose or by chance."""
        in_rate = self.rate is None or self.rate[0] <= clip.rate <= self.rate[1]
        in_condition = self.conditions is None or clip.condition in self.conditions
        return self.allows(voices.VOICES[clip.voice]) and in_rate and in_condition


SETTINGS = {
    "gender": {gender: Setting(speaker={"gender": gender}) for gender in ("woman", "man")},
    "accent": {accent: Setting(speaker={"accent": accent}) for accent in ("American", "British")},
    "rate": {"slow": Setting(rate=(0.7, 0.8)), "fast": Setting(rate=(1.3, 1.5))},
    "noise": {"noisy": Setting(conditions=NOISES), "quiet": Setting(conditions=("clean",))},
    "line": {"telephone": Setting(conditions=("telephone",)), "direct": Setting(conditions=("clean",))},
}


def setting_of(attribute: Attribute | None) -> Setting:
    """The setting for `attribute`; an open one for None.

    Raises:
        UserError: no recording can have this attribute.
    """
    if attribute is None:
        return Setting()
    try:
        return SETTINGS[attribute.name][attribute.value]
    except KeyError:
        known = "; ".join(f"{name}: {', '.join(values)}" for name, values in SETTINGS.items())
        message = f"no clip can be {attribute.value!r} in {attribute.name!r}; there are {known}"
        raise UserError(message) from None


def draw_between(limits: Sequence[float], rng: np.random.Generator) -> float:
    """A number between the two `limits`, all equally likely."""
    low, high = limits
    return rng.uniform(low, high)


def seed_of(voice: Voice, purpose: str, key: str) -> int:
    """A seed of 32 bits for one purpose and one key, such as a clip id."""
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
    """The fields of Clip that all recordings of one speech share; an `allowed` voice that fits `setting`
    speaks.

    Raises:
        UserError: no allowed voice fits.
    """
    speakers = voices.speakers(voice)
    if not (fitting := [name for name in allowed if setting.allows(speakers[name])]):
        raise UserError(f"{key}: none of {', '.join(allowed)} is {setting.speaker}; change heldout_voices")
    rng = np.random.default_rng(seed_of(voice, "speech", key))
    name = voices.draw_voice(fitting, rng)
    return {
        "row_id": row_id,
        "suite": suite,
        "split": split,
        "transcript": text,
        "voice": name,
        "engine": name.partition("-")[0],
        "heldout_voice": name in (*voice.heldout_voices, *voice.validation_voices),
        "rate": round(draw_between(setting.rate or voice.rate, rng), 3),
        "pitch_semitones": round(draw_between(voice.pitch_semitones, rng), 3),
        "level_db": round(draw_between(voice.level_db, rng), 2),
    }


def draw_condition(voice: Voice, clip_id: str) -> Condition:
    """The condition of a training clip."""
    rng = np.random.default_rng(seed_of(voice, "condition", clip_id))
    if rng.random() < CLEAN_SHARE:
        return "clean"
    return TRAINED_DEGRADED[int(rng.choice(len(TRAINED_DEGRADED)))]


def draw_clip(voice: Voice, clip_id: str, condition: Condition, speech: dict) -> Clip:
    """The planned clip of a speech in `condition`; `duration_s` and `sha256` are still empty."""
    rng = np.random.default_rng(seed_of(voice, "strength", clip_id))
    degradation = CONDITIONS[condition]
    strength = draw_strength(condition, voice, rng)
    text = speech["transcript"]
    return Clip(
        id=clip_id,
        path=f"clips/{clip_id}.flac",
        condition=condition,
        heldout_condition=degradation.heldout,
        strength=strength,
        strength_text=degradation.strength_text.format(**strength),
        spoken=degradation.reword(text, rng) if degradation.reword else text,
        seed=seed_of(voice, "audio", clip_id),
        duration_s=0.0,
        sha256="",
        **speech,
    )


@dataclass
class HeldOut:
    """Plans the clips of the texts of a held-out split, one text after the other.

    Every second text is spoken by a voice of this split alone. Held-out conditions are for the test split
    only.
    """

    voice: Voice
    training: list[str]  # the voices that training clips may have
    split: Split
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
        """The clips of the next text: clean and in the conditions whose turn it is, or as `setting` needs."""
        setting, number, voice = setting or Setting(), self.number, self.voice
        self.number += 1
        heldout = voice.heldout_voices if self.split == "test" else voice.validation_voices
        speakers = heldout if number % 2 else self.training
        speech = draw_speech(voice, key, speakers, row_id, suite, self.split, text, setting)
        degraded = DEGRADED if self.split == "test" else TRAINED_DEGRADED
        conditions = ["clean", *in_turn(degraded, number // 2, num_conditions)]
        if setting.conditions:
            conditions = in_turn(setting.conditions, number // 2, 1)
        return [draw_clip(voice, f"{key}-{condition}", condition, speech) for condition in conditions]


def plan_rows(voice: Voice, training: list[str], rows: list[Row]) -> list[list[Clip]]:
    """The clips of each speech of synthesized rows; `training` are the voices of training rows.

    A training row has `train_clips_per_row` speeches of one clip, a held-out row one speech of several clips.
    """
    heldout = {split: HeldOut(voice, training, split) for split in CONDITIONS_PER_ROW}
    speeches: list[list[Clip]] = []
    for row in rows:
        if row.split in heldout:
            num_conditions = CONDITIONS_PER_ROW[row.split]
            speeches.append(heldout[row.split].clips(row.id, row.id, ALIGNMENT, row.prompt, num_conditions))
            continue
        for clip_id in (f"{row.id}-{k}" for k in range(voice.train_clips_per_row)):
            fields = draw_speech(
                voice, clip_id, training, row.id, ALIGNMENT, row.split, row.prompt, Setting()
            )
            condition = draw_condition(voice, clip_id)
            speeches.append([draw_clip(voice, clip_id, condition, fields)])
    return speeches


def plan_questions(
    voice: Voice, training: list[str], suite: str, questions: list[Question], validation_share: float
) -> list[list[Clip]]:
    """The clips of each question of a suite; validation has `validation_share` of them, the first in any
    case."""
    heldout = {split: HeldOut(voice, training, split) for split in CONDITIONS_PER_ROW}
    speeches = []
    for number, question in enumerate(questions):
        split: Split = "validation" if is_dealt(number, validation_share) else "test"
        speeches.append(
            heldout[split].clips(
                f"{suite}-{question.id}",
                question.id,
                suite,
                question.prompt,
                CONDITIONS_PER_QUESTION,
                setting_of(question.attribute),
            )
        )
    return speeches


def is_dealt(number: int, share: float) -> bool:
    """Whether the item of this number, from 0 on, is in the evenly spaced `share`; item 0 is in any above
    0."""
    return share > 0 and (number == 0 or int(number * share) > int((number - 1) * share))
