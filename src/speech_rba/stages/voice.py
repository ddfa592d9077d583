"""rows.jsonl of synthesize, data/suites/*/questions.jsonl -> manifest.jsonl, clips/<clip id>.flac, report.json.

Every choice is drawn from a generator seeded by the clip's id, so that no clip depends on order or worker.
A training row is spoken with random settings. A test row and a suite's question is spoken once, and the same
speech is recorded in several conditions, so that conditions can be compared in pairs.
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
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from speech_rba.params import Params, Voice
from speech_rba.records import Clip, Question, Row, read_jsonl, write_jsonl
from speech_rba.stages import PR_SET_PDEATHSIG, main, publish, workdir
from speech_rba.synthesis import augment, voices

NOISY = ("white_noise", "babble", "reverb", "telephone")
CLEAN_SHARE = 0.25
PAUSE_S = 0.3  # before and after: Whisper loses the first words of speech that starts with the recording

log = logging.getLogger(__name__)


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """`out` holds a clip for every training row, and one for each condition of every test row and question.

    Raises:
        ValueError: an id is no file name or occurs twice, the held-out voice is unknown, or there are no topics.
    """
    started = time.monotonic()
    speeches = plan(params.voice, data, rows)
    settings = params.voice.model_dump(exclude={"num_workers"})
    code = (Path(__file__), Path(voices.__file__), Path(augment.__file__))
    work = workdir("voice", settings, data, rows / "rows.jsonl", *code)
    clips, made = [], []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(params.voice.num_workers, spawn, initializer=_die_with_parent) as pool:
        record_all = partial(record, folder=work, talkers=voices.plan_talkers(params.voice.heldout_voice, data))
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


def plan(voice: Voice, data: Path, rows: Path) -> list[list[Clip]]:
    """The clips of each speech, all settings drawn; `duration_s` and `sha256` are still empty."""
    training = voices.training_voices(voice.heldout_voice)
    speeches, num_test = [], 0
    for row in read_jsonl(rows / "rows.jsonl", Row):
        if row.split == "test":
            allowed = [voice.heldout_voice] if num_test % 2 else training
            num_test += 1
            speech = _draw_speech(voice, row.id, allowed, row.id, "alignment", "test", row.prompt)
            speeches.append([_draw_clip(voice, f"{row.id}-{c}", c, speech) for c in ("clean", *NOISY)])
        else:
            for clip_id in (f"{row.id}-{k}" for k in range(voice.train_clips_per_row)):
                speech = _draw_speech(voice, clip_id, training, row.id, "alignment", row.split, row.prompt)
                speeches.append([_draw_clip(voice, clip_id, _draw_condition(voice, clip_id), speech)])
    for file in sorted(data.glob("suites/*/questions.jsonl")):
        for number, question in enumerate(read_jsonl(file, Question)[: voice.max_suite_questions]):
            suite, key = file.parent.name, f"{file.parent.name}-{question.id}"
            allowed = [voice.heldout_voice] if number % 2 else training
            speech = _draw_speech(voice, key, allowed, question.id, suite, "test", question.prompt)
            conditions = ("clean", *NOISY[number // 2 % 2 :: 2])  # every one, in every voice, at half the cost
            speeches.append([_draw_clip(voice, f"{key}-{c}", c, speech) for c in conditions])
    _check_ids([clip.id for clips in speeches for clip in clips])
    return speeches


def _check_ids(ids: list[str]) -> None:
    seen = set()
    for clip_id in ids:
        if clip_id in seen or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", clip_id):
            raise ValueError(f"clip id {clip_id!r} must be unique and made of letters, digits, '.', '_' and '-'")
        seen.add(clip_id)


def _seed(voice: Voice, purpose: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{voice.seed} {purpose} {key}".encode()).digest()[:4])


def _draw_speech(voice: Voice, key: str, allowed: list[str], row_id: str, suite: str, split: str, text: str) -> dict:
    """The fields of Clip that all recordings of one speech share."""
    rng = np.random.default_rng(_seed(voice, "speech", key))
    name = voices.draw_voice(allowed, rng)
    return {
        "row_id": row_id,
        "suite": suite,
        "split": split,
        "transcript": text,
        "voice": name,
        "engine": name.partition("-")[0],
        "heldout_voice": name == voice.heldout_voice,
        "rate": round(rng.uniform(*voice.rate), 3),
        "pitch_semitones": round(rng.uniform(*voice.pitch_semitones), 3),
        "level_db": round(rng.uniform(*voice.level_db), 2),
    }


def _draw_condition(voice: Voice, clip_id: str) -> str:
    rng = np.random.default_rng(_seed(voice, "condition", clip_id))
    return "clean" if rng.random() < CLEAN_SHARE else str(rng.choice(NOISY))


def _draw_clip(voice: Voice, clip_id: str, condition: str, speech: dict) -> Clip:
    rng = np.random.default_rng(_seed(voice, "strength", clip_id))
    snr_db, rt60_s = round(rng.uniform(*voice.snr_db), 2), round(rng.uniform(*voice.rt60_s), 3)
    return Clip(
        id=clip_id,
        path=f"clips/{clip_id}.flac",
        condition=condition,
        snr_db=snr_db if condition in ("white_noise", "babble") else None,
        rt60_s=rt60_s if condition == "reverb" else None,
        seed=_seed(voice, "audio", clip_id),
        duration_s=0.0,
        sha256="",
        **speech,
    )


def _die_with_parent() -> None:
    """The pool's processes would wait for ever when their parent is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def record(clips: list[Clip], folder: Path, talkers: list[tuple[str, str]]) -> tuple[set[str], list[Clip]]:
    """The ids of the clips that were made now, and all `clips` complete, with `<id>.flac` and `<id>.json` in `folder`.

    All `clips` are of the same speech. The JSON appears last: a clip that has both files is not made again.
    """
    todo = {c.id for c in clips if not ((folder / f"{c.id}.json").exists() and (folder / f"{c.id}.flac").exists())}
    if todo:
        speech = voices.speak(clips[0].voice, clips[0].transcript, clips[0].rate, clips[0].pitch_semitones)
        speech = np.pad(speech, round(PAUSE_S * augment.SAMPLE_RATE))
    for clip in clips:
        if clip.id in todo:
            _save(in_condition(speech, clip, talkers), clip, folder)
    return todo, [Clip.model_validate_json((folder / f"{c.id}.json").read_text()) for c in clips]


def in_condition(speech: np.ndarray, clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    """`speech` as `clip` says it is heard: in its noise, room or line, then at its level; `(N,)` at 16 kHz."""
    rng = np.random.default_rng(clip.seed)
    if clip.condition == "white_noise":
        speech = augment.with_noise(speech, augment.white_noise(len(speech), rng), clip.snr_db)
    elif clip.condition == "babble":
        others = [talker for talker in talkers if talker[0] != clip.voice]
        chosen = [voices.talk(*others[i]) for i in rng.choice(len(others), augment.NUM_TALKERS, replace=False)]
        speech = augment.with_noise(speech, augment.babble(chosen, len(speech), rng), clip.snr_db)
    elif clip.condition == "reverb":
        speech = augment.reverberated(speech, clip.rt60_s, rng)
    elif clip.condition == "telephone":
        speech = augment.telephone(speech)
    return augment.at_level(speech, clip.level_db)


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
