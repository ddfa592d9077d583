"""What the student's speech recognition is worth in degraded recordings of questions: writes
results/recordings.json.

`python benchmarks/recordings.py FOLDER`, a suite of recordings with answers (docs/suites.md). Each recording
is degraded in `--conditions`; the language model, before alignment, answers the text, Whisper's transcript
(the cascade) and the student's prompt. Recovery is the student's share of the gap between cascade and text.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import tables
from benchmarks.people import DIGITS, show
from speech_rba.compute.threads import map_batches
from speech_rba.config import Params, load_params
from speech_rba.data.audio import read_audio
from speech_rba.data.measures import word_error_rate
from speech_rba.evaluation.metrics import is_right
from speech_rba.evaluation.statistics import bootstrap, paired_bootstrap, recovery
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.student import Student, build_student
from speech_rba.records import Clip, Question
from speech_rba.stages import ROOT, workdir
from speech_rba.suites.read import read_suite
from speech_rba.synthesis.conditions import SOUND
from speech_rba.synthesis.degrade_recordings import degrade_recordings
from speech_rba.synthesis.voices.voices import plan_talkers

BATCH = 32
TEXT, CASCADE, STUDENT = "text", "cascade", "student"


def main() -> None:
    options, started = parse(), time.perf_counter()
    params = load_params()
    clips, questions, folder = degraded(params, options.folder, tuple(options.conditions))
    student = build_student(params.assets, params.base, options.asr_adapter, torch.float32)
    whisper = build_student(params.assets, params.base, None, torch.float32)
    hypotheses = {
        CASCADE: transcribed(whisper, folder, clips, CASCADE),
        STUDENT: transcribed(student, folder, clips, STUDENT),
    }
    right = answered(student, clips, questions, hypotheses)
    transcripts = {
        name: [student.transcript(hypothesis) or "" for hypothesis in given]
        for name, given in hypotheses.items()
    }
    header = tables.header(
        f"python benchmarks/recordings.py {options.folder.name}", started, [params.suite.seed]
    )
    tables.write_result(options.out, header, rows_of(params, clips, right, transcripts))
    show(options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conditions", nargs="+", default=["white_noise", "pink_noise", "clipped"])
    parser.add_argument("--asr-adapter", type=Path, default=Path("artifacts/asr_adapter"))
    parser.add_argument("--out", type=Path, default=Path("results/recordings.json"))
    return parser.parse_args()


def degraded(
    params: Params, folder: Path, conditions: tuple[str, ...]
) -> tuple[list[Clip], dict[str, Question], Path]:
    """The clips of the folder's recordings, clean and in all `conditions`, the questions by id, and where the
    clips lie."""
    recordings, _ = read_suite(folder)
    each = {"conditions_per_recording": len(SOUND)}
    params = params.model_copy(update={"suite": params.suite.model_copy(update=each)})
    work = workdir("suite", params, "recordings", folder, ROOT / "data/topics.txt")
    readers = [(r.question, r.speaker, r.read) for r in recordings]
    clips = degrade_recordings(params, "recordings", readers, plan_talkers(params.voice, ROOT / "data"), work)
    kept = [clip for clip in clips if clip.condition in ("clean", *conditions)]
    return kept, {r.question.id: r.question for r in recordings}, work


def transcribed(student: Student, folder: Path, clips: list[Clip], name: str) -> list[Hypothesis]:
    """The hypothesis of each clip, in float32, as evaluation transcribes held-out clips."""
    order = sorted(range(len(clips)), key=lambda i: (clips[i].duration_s, clips[i].id))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    _ = [tower.silence for tower in student.towers]  # before the threads, which would each compute it

    def of_batch(places: list[int]) -> list[Hypothesis]:
        return student.transcribe_exactly([read_audio(folder / f"{clips[i].id}.flac") for i in places])

    by_place: dict[int, Hypothesis] = {}
    results = map_batches(of_batch, batches)
    for places, batch in tqdm(zip(batches, results, strict=True), name, len(batches), mininterval=2):
        by_place |= dict(zip(places, batch, strict=True))
    return [by_place[i] for i in range(len(clips))]


def answered(
    student: Student,
    clips: list[Clip],
    questions: dict[str, Question],
    hypotheses: dict[str, list[Hypothesis]],
) -> dict[str, np.ndarray]:
    """Whether each system answers each clip rightly, 1 or 0; a text is answered once for all its clips."""
    with TemporaryDirectory() as folder:
        student.save_pretrained(folder)
        aligned = AlignedStudent(Path(folder), None, torch.float32)
    texts = list(dict.fromkeys(clip.transcript for clip in clips))
    to_text = dict(zip(texts, aligned.respond(student.text_prompts(texts))[0], strict=True))
    cascaded = [student.transcript(h) or "" for h in hypotheses[CASCADE]]
    responses = {
        TEXT: [to_text[clip.transcript] for clip in clips],
        CASCADE: aligned.respond(student.text_prompts(cascaded))[0],
        STUDENT: aligned.respond([student.build_prompt(h) for h in hypotheses[STUDENT]])[0],
    }
    right = partial(right_answers, clips, questions)
    return {name: right(given) for name, given in responses.items()}


def right_answers(clips: list[Clip], questions: dict[str, Question], responses: list[str]) -> np.ndarray:
    pairs = zip(responses, [questions[clip.row_id] for clip in clips], strict=True)
    return np.array([float(is_right(response, q.answers, q.wrong)) for response, q in pairs])


def rows_of(
    params: Params, clips: list[Clip], right: dict[str, np.ndarray], transcripts: dict[str, list[str]]
) -> list[tables.Row]:
    """Accuracy and word error rate by condition, the difference of student and cascade, and the recovery."""
    num, seed, rows = params.evaluate.num_bootstrap, params.evaluate.seed, list[tables.Row]()
    conditions = list(dict.fromkeys(clip.condition for clip in clips))
    for condition in [*conditions, "degraded"]:
        places = [i for i, c in enumerate(clips) if in_condition(c.condition, condition)]
        row_ids, n = [clips[i].row_id for i in places], len(places)
        values = {name: scores[places] for name, scores in right.items()}
        for name, given in values.items():
            rows.append(row(condition, name, None, "accuracy", bootstrap(given, num, seed, row_ids), n))
        for name, texts in transcripts.items():
            wer = word_error_rate([clips[i].transcript for i in places], [texts[i] for i in places])
            rows.append(row(condition, name, None, "wer", (wer, None, None), n))
        pair = paired_bootstrap(values[STUDENT], values[CASCADE], num, seed, row_ids)[:3]
        rows.append(row(condition, STUDENT, CASCADE, "accuracy", pair, n))
        share = recovery(values[STUDENT], values[CASCADE], values[TEXT], num, seed, clusters=row_ids)
        if share is not None:
            rows.append(row(condition, STUDENT, None, "recovery of accuracy", share, n))
    return rows


def in_condition(condition: str, name: str) -> bool:
    return condition != "clean" if name == "degraded" else condition == name


def row(
    condition: str,
    system: str,
    versus: str | None,
    metric: str,
    estimate: tuple[float | None, ...],
    n: int,
) -> tables.Row:
    value, low, high = (None if x is None else round(x, DIGITS) for x in estimate)
    head = {"table": "recordings", "system": system, "versus": versus, "suite": None, "condition": condition}
    return head | {"metric": metric, "value": value, "low": low, "high": high, "n": n}


if __name__ == "__main__":
    main()
