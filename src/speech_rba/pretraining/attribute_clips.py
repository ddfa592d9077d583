"""The clips that the attribute head is trained on: questions about attributes, and ordinary questions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.config import Voice
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.student import Student
from speech_rba.records import ALIGNMENT, Attribute, AttributeQuestion, Clip, Row
from speech_rba.synthesis.plan_clips import (
    SETTINGS,
    Setting,
    draw_clip,
    draw_condition,
    draw_speech,
    setting_of,
)
from speech_rba.synthesis.record_clips import in_condition
from speech_rba.synthesis.voices import voices

BATCH = 32
MAX_CLIP_SAMPLES = 10 * 16_000


@dataclass(frozen=True)
class AttributeClip:
    """The plan of a clip; the attribute that its question is about and the answer, None for an ordinary
    question."""

    clip: Clip
    attribute: Attribute | None = None
    answer: str | None = None


def plan_attribute_clips(
    voice: Voice, questions: list[AttributeQuestion], number: int, split: str, seed: int
) -> list[AttributeClip]:
    """`number` questions, each with an attribute drawn for it; in held-out voices for the split `test`."""
    allowed = voices.training_voices(voice) if split == "train" else voice.heldout_voices
    allowed_voices = voices.of_packages(allowed)
    rng, clips = np.random.default_rng([seed, number]), []
    for i in range(number):
        question = questions[rng.integers(len(questions))]
        value = str(rng.choice(sorted(SETTINGS[question.name])))
        attribute = Attribute(name=question.name, value=value)
        setting, key = setting_of(attribute), f"{split}-manner-{i}"  # seeds: another key draws other clips
        condition = draw_condition(voice, key)
        if setting.conditions:
            condition = setting.conditions[rng.choice(len(setting.conditions))]
        speech = draw_speech(voice, key, allowed_voices, key, "attributes", split, question.prompt, setting)
        clip = draw_clip(voice, key, condition, speech)
        clips.append(AttributeClip(clip, attribute, question.answers[value]))
    return clips


def plan_ordinary_clips(voice: Voice, rows: list[Row]) -> list[AttributeClip]:
    """The rows' queries, in every condition of training."""
    allowed_voices, clips = voices.of_packages(voices.training_voices(voice)), []
    for row in rows:
        key = f"ordinary-{row.id}"
        speech = draw_speech(voice, key, allowed_voices, row.id, ALIGNMENT, "train", row.prompt, Setting())
        clips.append(AttributeClip(draw_clip(voice, key, draw_condition(voice, key), speech)))
    return clips


def transcribe_clips(
    student: Student, clips: list[AttributeClip], voice: Voice, data: Path
) -> list[SoftTokens]:
    """The student's prompt of each clip, in order; clips of similar lengths are transcribed together."""
    talkers = voices.plan_talkers(voice, data)
    audio = [record(clip.clip, talkers) for clip in tqdm(clips, desc="synthesize", mininterval=2)]
    order = sorted(range(len(audio)), key=lambda i: len(audio[i]))
    prompts: dict[int, SoftTokens] = {}
    for start in tqdm(range(0, len(order), BATCH), desc="transcribe", mininterval=2):
        places = order[start : start + BATCH]
        batch, _ = student.encode_audio([audio[place] for place in places])
        prompts |= dict(zip(places, batch, strict=True))
    return [prompts[place] for place in range(len(clips))]


def record(clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    """The audio of a planned clip (float32, 16 kHz mono), cut at its limit."""
    speech = voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones)
    return in_condition(speech, clip, talkers)[:MAX_CLIP_SAMPLES]
