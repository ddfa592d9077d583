"""A folder of questions or recordings -> artifacts/suites/NAME, which has the same files for every suite.

questions.jsonl; manifest.jsonl and clips/, a clip for each condition of each question; refused.jsonl, the
rows that cannot be scored; report.json. Written questions are voiced, for validation or the test; recordings
are for the test alone, unchanged and in the conditions whose turn it is.
"""

import json
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.config import Params
from speech_rba.data.measures import decibels
from speech_rba.records import RECORDED, Clip, Condition, Question, RefusedRow, write_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.suites.read import Recording, read_suite
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS, SOUND, Draw, draw_strength, in_turn
from speech_rba.synthesis.plan_clips import plan_questions
from speech_rba.synthesis.record_clips import (
    check_ids,
    draw_talkers,
    is_saved,
    record_all,
    save_clip,
    saved_clip,
    write_clips,
)
from speech_rba.synthesis.voices.voices import plan_talkers

RECORDING_DB = -24.0  # the level of a degraded recording, dB relative to full scale (RMS)


def run(params: Params, name: str, folder: Path, data: Path, out: Path) -> None:
    """Every question of the suite `name` in `folder` that can be scored, and its clips.

    Raises:
        UserError: the folder is no suite, or none of its rows can be scored.
    """
    started = time.perf_counter()
    recordings, refused = read_suite(folder)
    work = workdir("suite", params, name, folder, data / "topics.txt")
    talkers = plan_talkers(params.voice, data)
    written = [recording.question for recording in recordings if recording.sound is None]
    questions = written[: params.suite.max_questions] or [recording.question for recording in recordings]
    if written:
        speeches = plan_questions(params.voice, name, questions, params.suite.validation_share)
        clips, _ = record_all(speeches, talkers, work)
    else:
        clips = degrade_recordings(params, name, recordings, talkers, work)
    report = summary(questions, refused) | {"minutes": (time.perf_counter() - started) / 60}
    with publish(out, work) as partial_out:
        write_clips(partial_out, clips, work)
        write_jsonl(partial_out / "questions.jsonl", questions)
        write_jsonl(partial_out / "refused.jsonl", refused)
        (partial_out / "report.json").write_text(json.dumps(report, indent=2))
    print(f"{name}: {len(questions)} questions, {len(clips)} clips; {len(refused)} rows refused")
    for row in refused:
        print(f"  {row.file}:{row.row} {row.cause}")


def summary(questions: list[Question], refused: list[RefusedRow]) -> dict:
    """How many questions the suite has, and why rows are refused."""
    causes = dict(Counter(row.cause for row in refused))
    return {"num_questions": len(questions), "num_refused": len(refused), "causes": causes}


def degrade_recordings(
    params: Params, suite: str, recordings: list[Recording], talkers: list[tuple[str, str]], work: Path
) -> list[Clip]:
    """The clips of each recording, in `work` too; a clip that is there already is not made again."""
    clips: list[Clip] = []
    for number, recording in enumerate(tqdm(recordings, desc=f"read {suite}", mininterval=2)):
        audio: np.ndarray | None = None
        for condition in ["clean", *in_turn(SOUND, number, params.suite.conditions_per_recording)]:
            clip_id = f"{suite}-{number:05}-{condition}"
            if not is_saved(clip_id, work):
                audio = recording.read() if audio is None else audio
                rng = np.random.default_rng([params.suite.seed, number])
                draw = Draw(draw_strength(condition, params.voice, rng), rng, partial(draw_talkers, talkers))
                degraded = CONDITIONS[condition].degrade(audio, draw)
                if condition != "clean":
                    degraded = augment.at_level(degraded, RECORDING_DB)
                clip = recorded_clip(clip_id, suite, recording.question, condition, draw.strength, audio)
                save_clip(degraded, clip, work)
            clips.append(saved_clip(clip_id, work))
    check_ids([clip.id for clip in clips])
    return clips


def recorded_clip(
    clip_id: str,
    suite: str,
    question: Question,
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
        voice=RECORDED,
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


if __name__ == "__main__":
    main(run)
