"""The clips of a suite's recordings: each unchanged, and in the conditions whose turn it is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.config import Params
from speech_rba.data.measures import decibels
from speech_rba.records import RECORDED, Clip, Condition, Question
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS, SOUND, Draw, draw_strength, in_turn
from speech_rba.synthesis.record_clips import check_ids, draw_talkers, is_saved, save_clip, saved_clip

RECORDING_DB = -24.0  # the level of a degraded recording, dB relative to full scale (RMS)
Read = Callable[[], np.ndarray]  # gives float32 `(N,)` at 16 kHz


def degrade_recordings(
    params: Params,
    suite: str,
    recordings: list[tuple[Question, str, Read]],
    talkers: list[tuple[str, str]],
    work: Path,
) -> list[Clip]:
    """The clips of each recording (question, speaker, samples), in `work` too; a clip that is there already
    is not made again."""
    clips: list[Clip] = []
    for number, (question, speaker, read) in enumerate(tqdm(recordings, desc=f"read {suite}", mininterval=2)):
        audio: np.ndarray | None = None
        for condition in ["clean", *in_turn(SOUND, number, params.suite.conditions_per_recording)]:
            clip_id = f"{suite}-{number:05}-{condition}"
            if not is_saved(clip_id, work):
                audio = read() if audio is None else audio
                rng = np.random.default_rng([params.suite.seed, number])
                draw = Draw(draw_strength(condition, params.voice, rng), rng, partial(draw_talkers, talkers))
                degraded = CONDITIONS[condition].degrade(audio, draw)
                if condition != "clean":
                    degraded = augment.at_level(degraded, RECORDING_DB)
                clip = recorded_clip(clip_id, suite, question, speaker, condition, draw.strength, audio)
                save_clip(degraded, clip, work)
            clips.append(saved_clip(clip_id, work))
    check_ids([clip.id for clip in clips])
    return clips


def recorded_clip(
    clip_id: str,
    suite: str,
    question: Question,
    speaker: str,
    condition: Condition,
    strength: dict[str, float],
    audio: np.ndarray,
) -> Clip:
    """The record of a clip whose `audio` was recorded elsewhere; `duration_s` and `sha256` are still
    empty."""
    degradation = CONDITIONS[condition]
    return Clip(
        id=clip_id,
        row_id=question.id,
        suite=suite,
        split="test",
        path=f"clips/{clip_id}.flac",
        transcript=question.prompt,
        spoken=question.prompt,
        voice=speaker or RECORDED,
        engine=RECORDED,
        heldout_voice=True,
        rate=1.0,
        pitch_semitones=0.0,
        level_db=float(decibels(np.array(augment.rms(audio)))),
        condition=condition,
        heldout_condition=degradation.heldout,
        strength=strength,
        strength_text=degradation.strength_text.format(**strength),
        seed=0,
        duration_s=0.0,
        sha256="",
    )
