"""A folder of questions or recordings -> artifacts/suites/NAME: what every suite is from there on.

questions.jsonl; manifest.jsonl and clips/, a clip for each condition of each question; refused.jsonl, the rows that
cannot be scored; report.json. Written questions are voiced, for validation or the test; recordings are for the test
alone, as they are and in the conditions whose turn it is.
"""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.config import Params
from speech_rba.data.measures import decibels
from speech_rba.records import RECORDED, Clip, Question, write_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.suites.read import Recording, read_suite
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS, SOUND, draw_strength, in_turn
from speech_rba.synthesis.plan_clips import HeldOut, setting_of
from speech_rba.synthesis.record_clips import check_ids, record_all, save_clip, write_clips
from speech_rba.synthesis.voices import voices

CONDITIONS_PER_QUESTION = 1  # besides clean, of a question that is voiced
RECORDING_DB = -24.0  # the level of a degraded recording, dB relative to full scale (RMS)


def run(params: Params, name: str, folder: Path, data: Path, out: Path) -> None:
    """Every question of the suite `name` in `folder` that can be scored, and its clips.

    Raises:
        UserError: the folder is no suite, or none of its rows can be scored.
    """
    started = time.perf_counter()
    recordings, refused = read_suite(folder)
    work = workdir("suite", params, name, folder, data / "topics.txt")
    written = [recording.question for recording in recordings if recording.sound is None]
    questions = written[: params.suite.max_questions] or [recording.question for recording in recordings]
    if written:
        clips, _ = record_all(plan_written(params, name, questions), params.voice, data, work)
    else:
        clips = record_outside(params, name, recordings, data, work)
    report = {
        "num_questions": len(questions),
        "num_refused": len(refused),
        "causes": dict(Counter(row.cause for row in refused)),
        "minutes": (time.perf_counter() - started) / 60,
    }
    with publish(out, work) as partial:
        write_clips(partial, clips, work)
        write_jsonl(partial / "questions.jsonl", questions)
        write_jsonl(partial / "refused.jsonl", refused)
        (partial / "report.json").write_text(json.dumps(report, indent=2))
    print(f"{name}: {len(questions)} questions, {len(clips)} clips; {len(refused)} rows refused")
    for row in refused:
        print(f"  {row.file}:{row.row} {row.cause}")


def plan_written(params: Params, name: str, questions: list[Question]) -> list[list[Clip]]:
    """The clips of each question; validation has its share of them, evenly dealt and the first one in any case."""
    turns = {split: HeldOut(params.voice, split) for split in ("validation", "test")}
    speeches = []
    for number, question in enumerate(questions):
        split = "validation" if is_dealt(number, params.suite.validation_share) else "test"
        key, setting = f"{name}-{question.id}", setting_of(question.attribute)
        settings = (CONDITIONS_PER_QUESTION, setting)
        speeches.append(turns[split].clips(key, question.id, name, question.prompt, *settings))
    return speeches


def is_dealt(number: int, share: float) -> bool:
    """Whether the thing of this number, from 0 on, is one of the evenly spaced `share`, of which 0 is the first."""
    return share > 0 and (number == 0 or int(number * share) > int((number - 1) * share))


def record_outside(
    params: Params, name: str, recordings: list[Recording], data: Path, work: Path
) -> list[Clip]:
    """The clips of each recording, in `work` too, where what is there already is kept."""
    talkers = voices.plan_talkers(params.voice, data)

    def draw_talkers(rng: np.random.Generator) -> list[np.ndarray]:
        return [
            voices.talk(*talkers[i]) for i in rng.choice(len(talkers), augment.NUM_TALKERS, replace=False)
        ]

    clips: list[Clip] = []
    for number, recording in enumerate(tqdm(recordings, desc=f"read {name}", mininterval=2)):
        audio = None
        for condition in ["clean", *in_turn(SOUND, number, params.suite.conditions_per_recording)]:
            clip_id = f"{name}-{number:05}-{condition}"
            if (done := work / f"{clip_id}.json").exists():
                clips.append(Clip.model_validate_json(done.read_text()))
                continue
            audio = recording.read() if audio is None else audio
            rng = np.random.default_rng([params.suite.seed, number])
            strength = draw_strength(condition, params.voice, rng)
            degraded = CONDITIONS[condition].degrade(audio, strength, rng, draw_talkers)
            if condition != "clean":
                degraded = augment.at_level(degraded, RECORDING_DB)
            clip = outside_clip(clip_id, name, recording.question, condition, strength, audio)
            clips.append(save_clip(degraded, clip, work))
    check_ids([clip.id for clip in clips])
    return clips


def outside_clip(
    clip_id: str,
    suite: str,
    question: Question,
    condition: str,
    strength: dict[str, float],
    audio: np.ndarray,
) -> Clip:
    return Clip(
        id=clip_id, row_id=question.id, suite=suite, split="test", path=f"clips/{clip_id}.flac",
        transcript=question.prompt, spoken=question.prompt, voice=RECORDED, engine=RECORDED, heldout_voice=True,
        rate=1.0, pitch_semitones=0.0, level_db=float(decibels(np.array(augment.rms(audio)))), condition=condition,
        heldout_condition=CONDITIONS[condition].heldout, strength=strength, seed=0, duration_s=0.0, sha256="",
    )  # fmt: skip


if __name__ == "__main__":
    main(run)
