"""What is evaluated: held-out rows, suites written for this project, and any folder of recordings."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from speech_rba.data.benchmarks import read_benchmark
from speech_rba.errors import UserError
from speech_rba.model.answer import MAX_HEARD_TOKENS
from speech_rba.model.audio_tower import hear, load_audio_tower
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.heard import load_spoken
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import ALIGNMENT, Clip, Feature, Question, Row, read_jsonl

BATCH = 32

Spoil = Callable[[np.ndarray, int], list[tuple[str, float | None, np.ndarray]]]  # (condition, SNR in dB, audio)


@dataclass(frozen=True)
class Item:
    """One clip to answer: `reference` is the teacher's answer to a synthesized row, `question` that of a suite."""

    suite: str
    row_id: str
    clip_id: str
    condition: str
    voice: str
    heldout_voice: bool
    snr_db: float | None
    prompt: str
    heard: str
    student_heard: str | None
    spoken: SoftTokens
    reference: str
    question: Question


def load_items(
    student: SpeechStudent, data: Path, rows: Path, features: Path, validation: Path, folders: list[str], spoil: Spoil
) -> list[Item]:
    """Every accepted test clip, then the recordings of each outside folder, each in what `spoil` makes of it.

    Raises:
        UserError: a place is no benchmark (data/benchmarks.py), or one with questions.jsonl does not lie under `data`.
    """
    known = {path.name: path for path in sorted((data / "suites").iterdir()) if path.is_dir()}
    wanted = {Path(f).name for f in folders if (Path(f) / "questions.jsonl").exists()}
    if missing := wanted - set(known):
        raise UserError(f"suites with questions.jsonl must lie under {data}/suites to be voiced: {', '.join(missing)}")
    reference = {r.id: r.completion for r in read_jsonl(rows / "rows.jsonl", Row)}
    asked = {q.id: q for s in wanted for q in read_jsonl(known[s] / "questions.jsonl", Question)}
    nothing = Question(id="", prompt="", answers=[])
    accepted = read_jsonl(validation / "accepted.jsonl", Clip)
    clips = [c for c in accepted if c.split == "test" and c.suite in wanted | {ALIGNMENT}]
    spoken = load_spoken(student, features, clips)
    table = {f.clip_id: f for f in read_jsonl(features / "table.jsonl", Feature)}
    questions = [asked.get(c.row_id, nothing) for c in clips]
    items = [
        Item(c.suite, c.row_id, c.id, c.condition, c.voice, c.heldout_voice, c.strength.get("snr_db"), c.transcript,
             table[c.id].heard, table[c.id].student_heard, s, reference.get(c.row_id, ""), q)
        for c, s, q in zip(clips, spoken, questions, strict=True)
    ]  # fmt: skip
    for folder in folders:
        if Path(folder).name not in wanted:
            items += recordings(student, folder, spoil)
    return items


def recordings(student: SpeechStudent, place: str, spoil: Spoil) -> list[Item]:
    """The recordings of an outside benchmark, as they are and in what `spoil` makes of them."""
    takes = ((recording.question, *take) for number, recording in enumerate(read_benchmark(place))
             for take in spoil(recording.read(), number))  # fmt: skip
    judge = load_audio_tower(student.config.audio_tower, None)
    items = []
    while batch := list(islice(takes, BATCH)):
        clips = [audio for *_, audio in batch]
        spoken, student_heard = student.listen(clips, MAX_HEARD_TOKENS)
        judged = hear(judge, clips, top_k=1, max_tokens=MAX_HEARD_TOKENS, dtype=torch.float32)
        heard = [judge.text(h.token_ids.tolist()) for h in judged]
        for (question, condition, snr_db, _), h, sh, s in zip(batch, heard, student_heard, spoken, strict=True):
            where = (Path(place).name, question.id, f"{question.id}-{condition}", condition, "recorded", True, snr_db)
            items.append(Item(*where, question.prompt, h, sh, s, "", question))
    return items
