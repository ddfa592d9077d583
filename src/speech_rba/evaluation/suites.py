"""What is evaluated: held-out rows, suites written for this project, and any folder of recordings."""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch

from speech_rba.data.audio import read_audio
from speech_rba.model.audio_tower import hear, load_audio_tower
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.heard import load_spoken
from speech_rba.model.student import Student
from speech_rba.records import ALIGNMENT, Clip, Feature, Question, Row, read_jsonl

MAX_HEARD_TOKENS = 48


@dataclass(frozen=True)
class Item:
    """One clip to answer. `reference` is the teacher's answer (alignment) and `answers` the right ones (QA)."""

    suite: str
    row_id: str
    clip_id: str
    condition: str
    voice: str
    heldout_voice: bool
    snr_db: float | None
    prompt: str
    heard: str
    student_heard: str
    spoken: SoftTokens
    reference: str
    answers: tuple[str, ...]


def load_items(
    student: Student, data: Path, rows: Path, features: Path, validation: Path, folders: list[str]
) -> list[Item]:
    """Every accepted test clip, then the recordings of each outside folder.

    Raises:
        ValueError: a folder holds neither `questions.jsonl` nor one `.tsv` beside `wav/`.
    """
    known = {path.name: path for path in sorted((data / "suites").iterdir()) if path.is_dir()}
    wanted = {Path(f).name for f in folders if (Path(f) / "questions.jsonl").exists()}
    if missing := wanted - set(known):
        raise ValueError(f"suites with questions.jsonl must lie under {data}/suites to be voiced: {', '.join(missing)}")
    reference = {r.id: r.completion for r in read_jsonl(rows / "rows.jsonl", Row)}
    answers = {q.id: tuple(q.answers) for s in wanted for q in read_jsonl(known[s] / "questions.jsonl", Question)}
    accepted = read_jsonl(validation / "accepted.jsonl", Clip)
    clips = [c for c in accepted if c.split == "test" and c.suite in wanted | {ALIGNMENT}]
    spoken = load_spoken(student, features, clips)
    table = {f.clip_id: f for f in read_jsonl(features / "table.jsonl", Feature)}
    items = [
        Item(c.suite, c.row_id, c.id, c.condition, c.voice, c.heldout_voice, c.snr_db, c.transcript,
             table[c.id].heard, table[c.id].student_heard, s, reference.get(c.row_id, ""), answers.get(c.row_id, ()))
        for c, s in zip(clips, spoken, strict=True)
    ]  # fmt: skip
    for folder in folders:
        if Path(folder).name not in wanted:
            items += recordings(student, Path(folder))
    return items


def recordings(student: Student, folder: Path) -> list[Item]:
    """A folder in LLaMA-Questions' form: one .tsv (question, answer, file name) beside wav/."""
    tables = sorted(folder.glob("*.tsv"))
    if len(tables) != 1:
        raise ValueError(
            f"{folder} is no suite: it needs questions.jsonl, or one .tsv (question, answer, file) beside wav/"
        )
    with open(tables[0], encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    judge = load_audio_tower(student.config.audio_tower, None)
    items = []
    for start in range(0, len(lines), 32):
        batch = lines[start : start + 32]
        clips = [read_audio(folder / "wav" / line[2]) for line in batch]
        spoken, student_heard = student.listen(clips, MAX_HEARD_TOKENS)
        judged = hear(judge, clips, top_k=1, max_tokens=MAX_HEARD_TOKENS, dtype=torch.float32)
        heard = [judge.text(h.token_ids.tolist()) for h in judged]
        items += [
            Item(folder.name, line[2], line[2], "clean", "recorded", True, None, line[0], h, sh, s, "", (line[1],))
            for line, h, sh, s in zip(batch, heard, student_heard, spoken, strict=True)
        ]
    return items
