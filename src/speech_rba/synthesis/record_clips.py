"""Clips of planned speeches, spoken by a pool of processes; each clip is kept as it is made, and made once."""

import ctypes
import hashlib
import io
import multiprocessing
import os
import re
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from speech_rba.config import Voice
from speech_rba.errors import UserError
from speech_rba.records import Clip, write_jsonl
from speech_rba.synthesis import augment
from speech_rba.synthesis.plan_clips import in_condition
from speech_rba.synthesis.voices import voices

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
CLIP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def record_all(
    speeches: list[list[Clip]], voice: Voice, data: Path, folder: Path
) -> tuple[list[Clip], set[str]]:
    """All clips complete, in order, with their files in `folder`, and the ids of those that were made now.

    The clips of a speech share their voice. As many processes work as there are cores.

    Raises:
        UserError: an id is no file name or occurs twice.
    """
    check_ids([clip.id for speech in speeches for clip in speech])
    talkers = voices.plan_talkers(voice, data)
    spawn = multiprocessing.get_context("spawn")
    clips, made = [], set()
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_die_with, initargs=(os.getpid(),)) as pool:
        results = pool.map(partial(record, folder=folder, talkers=talkers), speeches, chunksize=4)
        for new, recorded in tqdm(results, total=len(speeches), desc="voice", unit="speech", mininterval=2):
            clips += recorded
            made |= new
    return clips, made


def check_ids(ids: list[str]) -> None:
    """Raises UserError where an id is no file name or occurs twice."""
    seen = set()
    for clip_id in ids:
        if clip_id in seen or not CLIP_ID.fullmatch(clip_id):
            raise UserError(
                f"clip id {clip_id!r} must be unique and made of letters, digits, '.', '_' and '-'"
            )
        seen.add(clip_id)


def _die_with(parent: int) -> None:
    """The pool's processes would wait for ever when their parent is killed, be it before this or after."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def record(clips: list[Clip], folder: Path, talkers: list[tuple[str, str]]) -> tuple[set[str], list[Clip]]:
    """The ids of the clips that were made now, and all `clips` complete, with `<id>.flac` and `<id>.json` in `folder`.

    All `clips` are in the same voice. The JSON appears last: a clip that has both files is not made again.
    """
    todo = {
        c.id for c in clips if not ((folder / f"{c.id}.json").exists() and (folder / f"{c.id}.flac").exists())
    }
    speeches: dict[str, np.ndarray] = {}
    for clip in clips:
        if clip.id in todo:
            if clip.spoken not in speeches:
                speeches[clip.spoken] = voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones)
            save_clip(in_condition(speeches[clip.spoken], clip, talkers), clip, folder)
    return todo, [Clip.model_validate_json((folder / f"{c.id}.json").read_text()) for c in clips]


def save_clip(audio: np.ndarray, clip: Clip, folder: Path) -> Clip:
    """The clip with its duration and hash, once `folder` holds its sound and its record."""
    file = folder / f"{clip.id}.flac"
    partial_file = file.with_suffix(".partial")
    encoded = io.BytesIO()  # libsndfile itself says nothing when the disk is full
    soundfile.write(encoded, audio, augment.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial_file.write_bytes(encoded.getbuffer())
    digest = hashlib.sha256(encoded.getbuffer()).hexdigest()
    os.replace(partial_file, file)
    done = clip.model_copy(update={"duration_s": len(audio) / augment.SAMPLE_RATE, "sha256": digest})
    partial_file.write_text(done.model_dump_json())
    os.replace(partial_file, file.with_suffix(".json"))
    return done


def write_clips(folder: Path, clips: list[Clip], recorded: Path) -> None:
    """`folder` holds manifest.jsonl, and clips/ with the files that `recorded` holds."""
    (folder / "clips").mkdir()
    for clip in clips:
        shutil.copyfile(recorded / f"{clip.id}.flac", folder / clip.path)
    write_jsonl(folder / "manifest.jsonl", clips)
