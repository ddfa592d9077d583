"""The clips of planned speeches, recorded by a pool of processes: a clip is saved when it is made, and made
once."""

import os
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.compute.pool import process_pool
from speech_rba.data.flac import write_flac
from speech_rba.errors import UserError
from speech_rba.records import Clip, write_jsonl
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS, Draw
from speech_rba.synthesis.voices import voices

CLIP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def record_all(
    speeches: list[list[Clip]], talkers: list[tuple[str, str]], folder: Path
) -> tuple[list[Clip], set[str]]:
    """All clips complete, in order, with their files in `folder`, and the ids of those made in this call.

    The clips of a speech share their voice. `talkers` are those of `voices.plan_talkers`.

    Raises:
        UserError: an id is no file name or occurs twice.
    """
    check_ids([clip.id for speech in speeches for clip in speech])
    clips: list[Clip] = []
    made: set[str] = set()
    with process_pool() as map_rows:
        recordings = map_rows(partial(record, folder=folder, talkers=talkers), speeches)
        bar = tqdm(recordings, total=len(speeches), desc="voice", unit="speech", mininterval=2)
        for new, recorded in bar:
            clips += recorded
            made |= new
    return clips, made


def check_ids(ids: list[str]) -> None:
    """Raises UserError where an id is no file name or occurs twice."""
    seen: set[str] = set()
    for clip_id in ids:
        if clip_id in seen or not CLIP_ID.fullmatch(clip_id):
            message = f"clip id {clip_id!r} must be unique and made of letters, digits, '.', '_' and '-'"
            raise UserError(message)
        seen.add(clip_id)


def record(clips: list[Clip], folder: Path, talkers: list[tuple[str, str]]) -> tuple[set[str], list[Clip]]:
    """The ids of the clips made in this call, and all `clips` complete, with `<id>.flac` and `<id>.json` in
    `folder`.

    All `clips` have the same voice. The JSON appears last: a clip that has both files is not made again.
    """
    new = {clip.id for clip in clips if not is_saved(clip.id, folder)}
    speeches: dict[str, np.ndarray] = {}
    for clip in clips:
        if clip.id in new:
            if clip.spoken not in speeches:
                speeches[clip.spoken] = voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones)
            save_clip(in_condition(speeches[clip.spoken], clip, talkers), clip, folder)
    return new, [saved_clip(clip.id, folder) for clip in clips]


def in_condition(speech: np.ndarray, clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    """`speech` in the condition of `clip`, then at its level; `(N,)` at 16 kHz. Its voice is not in its
    background."""
    others = [talker for talker in talkers if talker[0] != clip.voice]
    draw = Draw(clip.strength, np.random.default_rng(clip.seed), partial(draw_talkers, others))
    return augment.at_level(CONDITIONS[clip.condition].degrade(speech, draw), clip.level_db)


def draw_talkers(talkers: list[tuple[str, str]], rng: np.random.Generator) -> list[np.ndarray]:
    """The speech of the background talkers of one clip."""
    return [voices.talk(*talkers[i]) for i in rng.choice(len(talkers), augment.NUM_TALKERS, replace=False)]


def is_saved(clip_id: str, folder: Path) -> bool:
    """Whether `folder` holds the clip whole."""
    return (folder / f"{clip_id}.json").exists() and (folder / f"{clip_id}.flac").exists()


def saved_clip(clip_id: str, folder: Path) -> Clip:
    """The record of a clip that `folder` holds."""
    return Clip.model_validate_json((folder / f"{clip_id}.json").read_text())


def save_clip(audio: np.ndarray, clip: Clip, folder: Path) -> Clip:
    """The clip with its duration and hash, once `folder` holds its audio and its record."""
    file = folder / f"{clip.id}.flac"
    digest, partial_file = write_flac(file, audio), file.with_suffix(".partial")
    complete = clip.model_copy(update={"duration_s": len(audio) / augment.SAMPLE_RATE, "sha256": digest})
    partial_file.write_text(complete.model_dump_json())
    os.replace(partial_file, file.with_suffix(".json"))
    return complete


def summary(clips: list[Clip], made: set[str], seconds: float) -> dict:
    """Counts and times; the real-time factor is computing time over audio made, None when no clip is new."""
    made_s = sum(clip.duration_s for clip in clips if clip.id in made)
    return {
        "num_clips": len(clips),
        "audio_minutes": sum(clip.duration_s for clip in clips) / 60,
        "minutes": seconds / 60,
        "real_time_factor": round(seconds / made_s, 5) if made_s else None,
    }


def write_clips(folder: Path, clips: list[Clip], recorded: Path) -> None:
    """`folder` holds manifest.jsonl, and clips/ with the files that `recorded` holds."""
    (folder / "clips").mkdir()
    for clip in clips:
        shutil.copyfile(recorded / f"{clip.id}.flac", folder / clip.path)
    write_jsonl(folder / "manifest.jsonl", clips)
