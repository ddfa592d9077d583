"""rows.jsonl of synthesize, data/suites/*/questions.jsonl -> manifest.jsonl, clips/<clip id>.flac, report.json.

Every choice is drawn from a generator seeded by the clip's id, so that no clip depends on order or worker.
A training row is spoken with random settings. A test row and a suite's question is spoken by one voice and recorded
clean and in several conditions, which take turns, so that each is compared with clean speech in pairs.
"""

import ctypes
import hashlib
import io
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from speech_rba.errors import UserError
from speech_rba.params import Params, Voice
from speech_rba.records import ALIGNMENT, Clip, Question, Row, read_jsonl, write_jsonl
from speech_rba.stages import PR_SET_PDEATHSIG, main, publish, workdir
from speech_rba.synthesis import augment, conditions, hesitation, recording, voices
from speech_rba.synthesis.conditions import HARD, in_turn
from speech_rba.synthesis.recording import Setting, draw_clip, draw_condition, draw_speech, in_condition, setting_of

CONDITIONS_PER_ROW, CONDITIONS_PER_QUESTION = 3, 1  # besides clean

log = logging.getLogger(__name__)


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """`out` holds a clip for every training row, and one for each condition of every test row and evaluated question.

    Raises:
        UserError: an id is no file name or occurs twice, the held-out voice is unknown, or there are no topics.
    """
    started = time.monotonic()
    speeches = plan(params.voice, data, rows, {Path(suite).name for suite in params.evaluate.suites})
    settings = params.voice.model_dump(exclude={"num_workers"})
    code = (
        Path(module.__file__) for module in (sys.modules[__name__], recording, voices, augment, conditions, hesitation)
    )
    work = workdir("voice", settings, data, rows / "rows.jsonl", *code)
    clips, made = [], []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(params.voice.num_workers, spawn, initializer=_die_with, initargs=(os.getpid(),)) as pool:
        record_all = partial(record, folder=work, talkers=voices.plan_talkers(params.voice.heldout_voices, data))
        results = pool.map(record_all, speeches, chunksize=4)
        for new, recorded in tqdm(results, total=len(speeches), desc="voice", unit="speech"):
            clips += recorded
            made += [clip for clip in recorded if clip.id in new]
    with publish(out) as folder:
        (folder / "clips").mkdir()
        for clip in clips:
            shutil.copyfile(work / f"{clip.id}.flac", folder / clip.path)
        write_jsonl(folder / "manifest.jsonl", clips)
        report = _report(clips, made, time.monotonic() - started)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(work)
    num_long = sum(clip.duration_s > params.voice.max_duration_s for clip in clips)
    log.info(
        f"voice: {len(clips)} clips, {report['audio_minutes']:.1f} min of audio, {num_long} too long, "
        f"{len(clips) - len(made)} from an earlier run, {len(made) / report['minutes'] / 60:.1f} clips/s, "
        f"real-time factor {report['real_time_factor']}"
    )


def _report(clips: list[Clip], made: list[Clip], seconds: float) -> dict:
    """Counts and times; the real-time factor is computing time over audio made, None when no clip was new."""
    made_s = sum(clip.duration_s for clip in made)
    return {
        "num_clips": len(clips),
        "audio_minutes": sum(clip.duration_s for clip in clips) / 60,
        "minutes": seconds / 60,
        "real_time_factor": round(seconds / made_s, 5) if made_s else None,
    }


def plan(voice: Voice, data: Path, rows: Path, suites: set[str]) -> list[list[Clip]]:
    """The clips of each speech, all settings drawn; `duration_s` and `sha256` are still empty.

    Of the folders under data/suites only `suites` are spoken.
    """
    training = voices.training_voices(voice.heldout_voices)
    speeches, num_test = [], 0
    for row in read_jsonl(rows / "rows.jsonl", Row):
        if row.split == "test":
            speakers = _turn(voice, training, num_test)
            speech = draw_speech(voice, row.id, speakers, row.id, ALIGNMENT, "test", row.prompt, Setting())
            takes = ["clean", *in_turn(HARD, num_test // 2, CONDITIONS_PER_ROW)]
            speeches.append(_test_clips(voice, row.id, speech, takes))
            num_test += 1
        else:
            for clip_id in (f"{row.id}-{k}" for k in range(voice.train_clips_per_row)):
                speech = draw_speech(voice, clip_id, training, row.id, ALIGNMENT, row.split, row.prompt, Setting())
                speeches.append([draw_clip(voice, clip_id, draw_condition(voice, clip_id), speech)])
    for file in sorted(file for file in data.glob("suites/*/questions.jsonl") if file.parent.name in suites):
        for number, question in enumerate(read_jsonl(file, Question)[: voice.max_suite_questions]):
            suite, key, setting = file.parent.name, f"{file.parent.name}-{question.id}", setting_of(question.manner)
            speakers = _turn(voice, training, number)
            speech = draw_speech(voice, key, speakers, question.id, suite, "test", question.prompt, setting)
            if setting.conditions:
                takes = in_turn(setting.conditions, number // 2, 1)
            else:
                takes = ["clean", *in_turn(HARD, number // 2, CONDITIONS_PER_QUESTION)]
            speeches.append(_test_clips(voice, key, speech, takes))
    _check_ids([clip.id for clips in speeches for clip in clips])
    return speeches


def _turn(voice: Voice, training: list[str], number: int) -> list[str]:
    """The voices that may speak the test text of this number: every second one is a held-out voice's."""
    return voice.heldout_voices if number % 2 else training


def _test_clips(voice: Voice, key: str, speech: dict, conditions: list[str]) -> list[Clip]:
    return [draw_clip(voice, f"{key}-{condition}", condition, speech) for condition in conditions]


def _check_ids(ids: list[str]) -> None:
    seen = set()
    for clip_id in ids:
        if clip_id in seen or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", clip_id):
            raise UserError(f"clip id {clip_id!r} must be unique and made of letters, digits, '.', '_' and '-'")
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
    todo = {c.id for c in clips if not ((folder / f"{c.id}.json").exists() and (folder / f"{c.id}.flac").exists())}
    speeches: dict[str, np.ndarray] = {}
    for clip in clips:
        if clip.id in todo:
            if clip.spoken not in speeches:
                speeches[clip.spoken] = voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones)
            _save(in_condition(speeches[clip.spoken], clip, talkers), clip, folder)
    return todo, [Clip.model_validate_json((folder / f"{c.id}.json").read_text()) for c in clips]


def _save(audio: np.ndarray, clip: Clip, folder: Path) -> None:
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


if __name__ == "__main__":
    main(run)
