"""What is evaluated: held-out rows, suites written for this project, and any folder of recordings."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from speech_rba.data.audio import read_audio
from speech_rba.model.audio_tower import hear, load_audio_tower
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.heard import load_spoken
from speech_rba.model.student import Student
from speech_rba.records import ALIGNMENT, Clip, Feature, Instruction, Question, Row, read_jsonl

MAX_HEARD_TOKENS = 48
BATCH = 32
TRANSCRIPTS = "transcripts.tsv"

Spoil = Callable[[np.ndarray, int], list[tuple[str, float | None, np.ndarray]]]  # (condition, SNR in dB, audio)


@dataclass(frozen=True)
class Item:
    """One clip to answer. `reference` is the teacher's answer (alignment); `answers` are right (QA), unless one
    of `wrong` is said too; `instructions` are to be followed."""

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
    wrong: tuple[str, ...] = ()
    instructions: tuple[Instruction, ...] = ()


def load_items(
    student: Student, data: Path, rows: Path, features: Path, validation: Path, folders: list[str], spoil: Spoil
) -> list[Item]:
    """Every accepted test clip, then the recordings of each outside folder, each in what `spoil` makes of it.

    Raises:
        ValueError: a folder is no suite (see `listed`), or one with questions.jsonl does not lie under `data`.
    """
    known = {path.name: path for path in sorted((data / "suites").iterdir()) if path.is_dir()}
    wanted = {Path(f).name for f in folders if (Path(f) / "questions.jsonl").exists()}
    if missing := wanted - set(known):
        raise ValueError(f"suites with questions.jsonl must lie under {data}/suites to be voiced: {', '.join(missing)}")
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
             table[c.id].heard, table[c.id].student_heard, s, reference.get(c.row_id, ""), tuple(q.answers),
             tuple(q.wrong), tuple(q.instructions))
        for c, s, q in zip(clips, spoken, questions, strict=True)
    ]  # fmt: skip
    for folder in folders:
        if Path(folder).name not in wanted:
            items += recordings(student, Path(folder), spoil)
    return items


def listed(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(file inside `folder`, what it says, right answers) of each recording.

    Either `transcripts.tsv` names files and what they say, which has no right answer; or one other .tsv, with a
    heading, has the question, the answer and the file's name under wav/, as LLaMA-Questions.

    Raises:
        ValueError: it is neither, a line has too few columns, or a file lies outside `folder`.
    """
    tables = sorted(folder.glob("*.tsv"))
    if len(tables) != 1:
        raise ValueError(
            f"{folder} is no suite: it needs questions.jsonl, transcripts.tsv (file, text), or one .tsv (question, "
            "answer, file) beside wav/"
        )
    with open(tables[0], encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    said = tables[0].name == TRANSCRIPTS
    if short := next((line for line in lines if len(line) < (2 if said else 3)), None):
        raise ValueError(f"{tables[0]} has a line with too few columns: {short}")
    found = [(line[0], line[1], ()) if said else (f"wav/{line[2]}", line[0], (line[1],)) for line in lines]
    for name, *_ in found:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{tables[0]} names {name}; allowed are files inside {folder}")
    return found if said else found[1:]


def recordings(student: Student, folder: Path, spoil: Spoil) -> list[Item]:
    """The recordings of an outside folder, as they are and in what `spoil` makes of them."""
    takes = ((file, text, answers, *take) for number, (file, text, answers) in enumerate(listed(folder))
             for take in spoil(read_audio(folder / file), number))  # fmt: skip
    judge = load_audio_tower(student.config.audio_tower, None)
    items = []
    while batch := list(islice(takes, BATCH)):
        clips = [audio for *_, audio in batch]
        spoken, student_heard = student.listen(clips, MAX_HEARD_TOKENS)
        judged = hear(judge, clips, top_k=1, max_tokens=MAX_HEARD_TOKENS, dtype=torch.float32)
        heard = [judge.text(h.token_ids.tolist()) for h in judged]
        for (file, text, answers, condition, snr_db, _), h, sh, s in zip(
            batch, heard, student_heard, spoken, strict=True
        ):
            where = (folder.name, file, f"{file}-{condition}", condition, "recorded", True, snr_db)
            items.append(Item(*where, text, h, sh, s, "", answers))
    return items
