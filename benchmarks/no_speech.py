"""Words invented in clips without speech, speech set apart, and the short window against Whisper's 30 s:
writes results/no_speech.json.

`python benchmarks/no_speech.py PEOPLE`, a folder of recordings with transcripts.tsv (docs/suites.md), after
`make run`, whose held-out clips in degraded conditions it transcribes too. The student transcribes, with its
ASR adapter where it is surer; the window is compared with the unadapted Whisper. Thresholds are chosen on the
validation set of benchmarks/non_speech.py, `--validation`.
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import tables
from benchmarks.non_speech import TEST, VALIDATION, make
from speech_rba.config import load_params
from speech_rba.data.audio import read_audio
from speech_rba.data.measures import normalize, word_error_rate
from speech_rba.model import audio_tower
from speech_rba.model.audio_tower import MAX_SECONDS, SAMPLING_RATE, AudioTower, transcribe
from speech_rba.model.student import Student, build_student
from speech_rba.records import Clip, read_jsonl

BATCH, MAX_TOKENS = 16, 96
LIMITS = {"top_k": 1, "max_tokens": MAX_TOKENS, "dtype": torch.float32}
NUM_EACH = 18  # clips without speech a generator
ARTIFACTS = Path("artifacts")
OUT = tables.ROOT / "results/no_speech.json"
RIGHT = 0.5  # WER of a transcript from which setting it apart loses nothing


Transcribe = Callable[[list[np.ndarray]], list[str]]


@dataclass(frozen=True)
class Speech:
    group: str
    audio: np.ndarray
    text: str


def main() -> None:
    options, started = parse(), time.perf_counter()
    params = load_params()
    student = build_student(params.assets, params.base, options.asr_adapter, torch.float32)
    people = recordings(options.people)
    made = make(VALIDATION if options.validation else TEST, NUM_EACH, int(not options.validation))
    rows = [
        *invented_rows(student, made),
        *set_apart_rows(student, [*people, *degraded(ARTIFACTS / "voice", options.num_degraded)]),
        *([] if options.no_window else window_rows(student, people)),
    ]
    seeds = [int(not options.validation)]
    header = tables.header("python benchmarks/no_speech.py PEOPLE", started, seeds)
    tables.write_result(options.out, header, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--asr-adapter", type=Path, default=Path("artifacts/asr_adapter"))
    parser.add_argument("--validation", action="store_true")
    parser.add_argument(
        "--no-window", action="store_true", help="Leave out the 30 s window, which takes long."
    )
    parser.add_argument("--num-degraded", type=int, default=40, help="Clips of each condition.")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def recordings(folder: Path) -> list[Speech]:
    """The recordings of at most 30 s that transcripts.tsv names, grouped by their subfolder."""
    with open(folder / "transcripts.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    speech = [
        Speech(Path(row["file"]).parent.name, read_audio(folder / row["file"]), row["text"])
        for row in rows
        if (folder / row["file"]).exists()
    ]
    return [one for one in speech if len(one.audio) <= MAX_SECONDS * SAMPLING_RATE]


def degraded(voice: Path, num_each: int) -> list[Speech]:
    """The first held-out clips of each condition."""
    held_out = [clip for clip in read_jsonl(voice / "manifest.jsonl", Clip) if clip.split != "train"]
    groups: dict[str, list[Clip]] = {}
    for clip in held_out:
        groups.setdefault(clip.condition, []).append(clip)
    return [
        Speech(clip.condition, read_audio(voice / clip.path), clip.transcript)
        for condition in sorted(groups)
        for clip in groups[condition][:num_each]
    ]


def texts_of(transcribe: Transcribe, clips: list[np.ndarray], name: str) -> list[str]:
    """The transcript of each clip, in order."""
    order = sorted(range(len(clips)), key=lambda place: len(clips[place]))
    texts = [""] * len(clips)
    for start in tqdm(range(0, len(order), BATCH), desc=name, mininterval=2):
        places = order[start : start + BATCH]
        for place, text in zip(places, transcribe([clips[i] for i in places]), strict=True):
            texts[place] = text
    return texts


def by_student(student: Student, clips: list[np.ndarray]) -> list[str]:
    return [student.transcript(h) or "" for h in student.transcribe(clips, **LIMITS)]


def by_whisper(tower: AudioTower, clips: list[np.ndarray]) -> list[str]:
    return [tower.text(h.token_ids.tolist()) for h in transcribe(tower, clips, **LIMITS)]


def without_rule(transcribe: Transcribe, clips: list[np.ndarray], name: str) -> list[str]:
    """As `texts_of`, where no clip is set apart."""
    rule = audio_tower.no_speech_reason
    audio_tower.no_speech_reason = lambda clip, mean_logprob, num_tokens: None
    try:
        return texts_of(transcribe, clips, name)
    finally:
        audio_tower.no_speech_reason = rule


def invented_rows(student: Student, made: list[tuple[str, np.ndarray]]) -> list[tables.Row]:
    """The share of clips without speech that have words, with the rule and without it."""
    clips, transcribe = [clip for _, clip in made], partial(by_student, student)
    by_system = {
        "with the rule": texts_of(transcribe, clips, "no speech"),
        "without": without_rule(transcribe, clips, "no speech, without the rule"),
    }
    rows = []
    for kind in ["all", *dict.fromkeys(kind for kind, _ in made)]:
        places = [i for i, (name, _) in enumerate(made) if kind in ("all", name)]
        for system, texts in by_system.items():
            invented = [bool(texts[i]) for i in places]
            rows.append(row("invented", system, kind, "invented_share", invented))
    return rows


def set_apart_rows(student: Student, speech: list[Speech]) -> list[tables.Row]:
    """The share of clips with speech that are set apart: of all, and of those with a right transcript."""
    clips, transcribe = [one.audio for one in speech], partial(by_student, student)
    kept = texts_of(transcribe, clips, "speech")
    whole = without_rule(transcribe, clips, "speech, without the rule")
    rows = []
    for group in ["all", *sorted({one.group for one in speech})]:
        places = [i for i, one in enumerate(speech) if group in ("all", one.group)]
        right = [i for i in places if word_error_rate([speech[i].text], [whole[i]]) < RIGHT]
        rows.append(row("set_apart", "all", group, "set_apart_share", [not kept[i] for i in places]))
        rows.append(row("set_apart", "right", group, "set_apart_share", [not kept[i] for i in right]))
        long = [three_times(speech[i].text, kept[i]) for i in places]
        rows.append(row("set_apart", "all", group, "long_hypotheses", long))
    return rows


def three_times(reference: str, hypothesis: str) -> bool:
    """Whether a hypothesis has over three times the words of the truth."""
    return len(normalize(hypothesis).split()) > 3 * len(normalize(reference).split())


def window_rows(student: Student, speech: list[Speech]) -> list[tables.Row]:
    """WER of the unadapted Whisper in the short window and by transformers' `generate` in 30 s, by the
    clip's length."""
    tower = student.audio_tower
    short = without_rule(partial(by_whisper, tower), [one.audio for one in speech], "short window")
    whole = [generated(tower, one.audio) for one in tqdm(speech, desc="30 s window", mininterval=2)]
    groups = {one.group for one in speech} | {length(one.audio) for one in speech}
    rows = []
    for group in ["all", *sorted(groups)]:
        places = [i for i, one in enumerate(speech) if group in ("all", one.group, length(one.audio))]
        texts = [speech[i].text for i in places]
        for system, hypotheses in (("short window", short), ("30 s window", whole)):
            wer = word_error_rate(texts, [hypotheses[i] for i in places])
            rows.append(cells("window", system, group, "wer", round(wer, 4), len(places)))
    return rows


def length(audio: np.ndarray) -> str:
    seconds = len(audio) / SAMPLING_RATE
    return next((f"under {end} s" for end in (1, 2, 3, 4, 6) if seconds < end), "6 s and more")


def generated(tower: AudioTower, clip: np.ndarray) -> str:
    features = tower.feature_extractor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    ids = tower.model.generate(
        features.input_features, max_new_tokens=MAX_TOKENS, do_sample=False, num_beams=1
    )
    return tower.text(ids[0].tolist())


def row(table: str, system: str, condition: str, metric: str, hits: list[bool]) -> tables.Row:
    value = round(sum(hits) / len(hits), 4) if hits else None
    return cells(table, system, condition, metric, value, len(hits))


def cells(
    table: str, system: str, condition: str, metric: str, value: float | None, number: int
) -> tables.Row:
    return {
        "table": table,
        "system": system,
        "versus": None,
        "suite": None,
        "condition": condition,
        "metric": metric,
        "value": value,
        "low": None,
        "high": None,
        "n": number,
    }


if __name__ == "__main__":
    main()
