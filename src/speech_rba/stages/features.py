"""artifacts/voice or suites/NAME, artifacts/base -> features or suite_features/NAME: table.jsonl,
hypotheses.safetensors.

Every recording is transcribed here. The student's hypotheses are kept with their alternatives, and of the
unadapted Whisper, the judge, the transcripts of clean clips for validation and of held-out clips for the
cascade; no stage needs its transcripts of degraded training clips.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params
from speech_rba.data.audio import read_audio
from speech_rba.data.measures import measure
from speech_rba.errors import UserError
from speech_rba.model.audio_tower import SAMPLING_RATE, AudioTower, Hypothesis, load_audio_tower
from speech_rba.model.hypotheses import load_hypotheses, save_hypotheses
from speech_rba.model.long_audio import transcribe
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.student import Student
from speech_rba.model.students import load_student
from speech_rba.records import Clip, Feature, read_jsonl, write_jsonl
from speech_rba.stages import main, publish, workdir

BATCH = 32
ROUND = 8  # batches a round; a killed run goes on after the last whole round

Transcribe = Callable[..., list[Hypothesis]]  # of clips, in the dtype of the keyword `dtype`


@dataclass(frozen=True)
class Transcripts:
    """The hypotheses by clip id: of the student for every clip, of the judge for those that `judged`
    names."""

    student: dict[str, Hypothesis]
    judge: dict[str, Hypothesis]
    ms_per_clip: dict[str, float]


def run(params: Params, voice: Path, base: Path, out: Path) -> None:
    """One Feature a clip, in the manifest's order, and the student's hypothesis of it."""
    started = time.perf_counter()
    clips = read_jsonl(voice / "manifest.jsonl", Clip)
    student, judge = load_student(base), load_audio_tower(params.assets.audio_tower, None)
    work = workdir("features", params, voice, base)
    transcripts = transcribe_clips(student, judge, voice, clips, work)
    table = [
        measure_clip(voice, clip, transcripts, student, judge)
        for clip in tqdm(clips, desc="measure", mininterval=2)
    ]
    ms = transcripts.ms_per_clip
    report = {
        "num_clips": len(clips),
        "num_no_speech": sum(feature.no_speech is not None for feature in table),
        "num_loops_cut": sum(feature.loop_cut for feature in table),
        "minutes": (time.perf_counter() - started) / 60,
        "ms_per_clip": ms,
    }
    with publish(out, work) as folder:
        write_jsonl(folder / "table.jsonl", table)
        save_hypotheses(folder / "hypotheses.safetensors", [transcripts.student[c.id] for c in clips])
        (folder / "report.json").write_text(json.dumps(report, indent=2))
    speeds = ", ".join(f"{name} {value:.0f}" for name, value in ms.items())
    print(f"{len(clips)} clips transcribed, ms a clip: {speeds}")


def judged(clips: list[Clip]) -> list[Clip]:
    """The clips whose transcript by the unadapted Whisper is used: clean ones, and all that are not for
    training."""
    return [clip for clip in clips if clip.split != "train" or clip.condition == "clean"]


def transcribe_clips(
    student: SpeechStudent, judge: AudioTower, voice: Path, clips: list[Clip], work: Path
) -> Transcripts:
    """The hypotheses of student and judge. The default student's first tower is the judge, and its adapted
    tower transcribes the clips of which that one is unsure."""
    max_tokens = student.config.max_transcript_tokens
    limits = {"top_k": student.config.soft_top_k, "max_tokens": max_tokens}
    if isinstance(student, Student):
        of_judge, ms = transcribe_all(partial(transcribe, judge, **limits), voice, clips, work, "judge")
        of_student, speeds = dict(of_judge), {"judge": ms}
        if unsure := [clip for clip in clips if student.is_unsure(of_judge[clip.id])]:
            by_adapter = partial(transcribe, student.adapted_tower, **limits)
            adapted, speeds["asr_adapter"] = transcribe_all(by_adapter, voice, unsure, work, "asr_adapter")
            of_student |= {i: student.surer(of_judge[i], hypothesis) for i, hypothesis in adapted.items()}
        return Transcripts(of_student, {clip.id: of_judge[clip.id] for clip in judged(clips)}, speeds)
    of_student, ms = transcribe_all(partial(student.transcribe, **limits), voice, clips, work, "student")
    by_judge = partial(transcribe, judge, top_k=1, max_tokens=max_tokens)
    of_judge, judge_ms = transcribe_all(by_judge, voice, judged(clips), work, "judge")
    return Transcripts(of_student, of_judge, {"student": ms, "judge": judge_ms})


def measure_clip(
    voice: Path, clip: Clip, transcripts: Transcripts, student: SpeechStudent, judge: AudioTower
) -> Feature:
    """The Feature of one clip."""
    by_student, by_judge = transcripts.student[clip.id], transcripts.judge.get(clip.id)
    judge_text = judge.text(by_judge.token_ids.tolist()) if by_judge else None
    confidence = by_judge.mean_logprob if by_judge else None
    audio, student_text = load(voice, clip), student.transcript(by_student)
    measured = measure(audio, clip.transcript, judge_text, student_text, confidence, clip.id)
    return measured.model_copy(update={"no_speech": by_student.no_speech, "loop_cut": by_student.loop_cut})


def transcribe_all(
    transcribe_batch: Transcribe, voice: Path, clips: list[Clip], work: Path, name: str
) -> tuple[dict[str, Hypothesis], float]:
    """The hypothesis of each clip by its id, and the milliseconds a clip; rounds that `work` holds are not
    repeated.

    Held-out clips are transcribed in float32, as the served student does; training clips in the fast dtype.
    """
    by_place: dict[int, Hypothesis] = {}
    started, num_new = time.perf_counter(), 0
    for precision, dtype in (("exact", torch.float32), ("fast", fast_dtype())):
        order = [i for i, clip in enumerate(clips) if (clip.split == "train") == (precision == "fast")]
        order.sort(key=lambda i: (clips[i].duration_s, clips[i].id))  # similar lengths, short windows
        rounds = range(0, len(order), BATCH * ROUND)
        for start in tqdm(rounds, desc=f"transcribe, {name}, {precision}", mininterval=2):
            places = order[start : start + BATCH * ROUND]
            path = work / f"{name}-{precision}-{start:06}.safetensors"
            if not path.exists():
                round_clips = [clips[i] for i in places]
                transcribe_round(partial(transcribe_batch, dtype=dtype), voice, round_clips, path)
                num_new += len(places)
            by_place |= dict(zip(places, load_hypotheses(path, list(range(len(places)))), strict=True))
    ms = 1000 * (time.perf_counter() - started) / max(1, num_new)
    return {clip.id: by_place[i] for i, clip in enumerate(clips)}, ms


def load(voice: Path, clip: Clip) -> np.ndarray:
    """The clip's samples; none if its file cannot be read, which validation then reports."""
    try:
        return read_audio(voice / clip.path)
    except UserError:
        return np.zeros(0, dtype=np.float32)


def transcribe_round(transcribe_batch: Transcribe, voice: Path, clips: list[Clip], path: Path) -> None:
    """`path` holds the hypotheses of `clips`, whole or not at all. Silence stands for an unreadable clip."""
    silence = np.zeros(SAMPLING_RATE // 2, dtype=np.float32)
    hypotheses: list[Hypothesis] = []
    for start in range(0, len(clips), BATCH):  # recordings of 30 minutes have 115 MB each
        audio = [load(voice, clip) for clip in clips[start : start + BATCH]]
        hypotheses += transcribe_batch([a if len(a) else silence for a in audio])
    partial_file = path.with_suffix(".partial")
    save_hypotheses(partial_file, hypotheses)
    partial_file.replace(path)


if __name__ == "__main__":
    main(run)
