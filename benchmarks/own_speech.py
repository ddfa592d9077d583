"""Word error rates in the project's own voices, of the unadapted Whisper and of the student, clean and
degraded, natural voices and robotic ones: writes results/own_speech.json.

`python benchmarks/own_speech.py`, after `make run`, whose held-out prompts and answers are the texts: no
training of the ASR adapter has them. Each text is spoken once by a natural and once by a robotic voice of the
test split, and by those of the validation split with `--validation`, on which thresholds are chosen.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import tables
from benchmarks.people import ADAPTED, BATCH, WHISPER, result_rows, show
from speech_rba.config import Params, load_params
from speech_rba.evaluation.people import Transcribed
from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.student import Student, build_student
from speech_rba.pretraining.natural_speech import NATURAL_ENGINE
from speech_rba.records import Row, read_jsonl
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS, SOUND, Draw, draw_strength, in_turn
from speech_rba.synthesis.record_clips import draw_talkers
from speech_rba.synthesis.voices import voices

NUM_TEXTS = 96  # half of them prompts, half answers
CONDITIONS_EACH = 3  # besides clean
LIMITS = {"top_k": 1, "max_tokens": 96, "dtype": torch.float32}
MAX_WORDS = 16
KINDS = ("natural", "robotic")


def main() -> None:
    options, started = parse(), time.perf_counter()
    params = load_params()
    spoken = clips(params, options.rows, options.validation)
    student = build_student(params.assets, params.base, options.asr_adapter, torch.float32)
    whisper = build_student(params.assets, params.base, None, torch.float32)
    by_system = {name: texts_of(s, spoken, name) for name, s in ((WHISPER, whisper), (ADAPTED, student))}
    transcribed = [
        Transcribed("own", folder, text, condition, text, {name: by_system[name][i] for name in by_system})
        for i, (folder, text, condition, _) in enumerate(spoken)
    ]
    header = tables.header(
        "python benchmarks/own_speech.py" + " --validation" * options.validation, started, [params.voice.seed]
    )
    tables.write_result(options.out, header, result_rows(transcribed, params))
    show(options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=Path("artifacts/synthesize/rows.jsonl"))
    parser.add_argument("--asr-adapter", type=Path, default=Path("artifacts/asr_adapter"))
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/own_speech.json"))
    return parser.parse_args()


def texts(rows: Path) -> list[str]:
    """Held-out prompts and short answers, in turn."""
    held_out = [row for row in read_jsonl(rows, Row) if row.split != "train"]
    answers = [row.completion for row in held_out if row.completion_ended]
    kinds = [[row.prompt for row in held_out], [a for a in answers if 3 <= len(a.split()) <= MAX_WORDS]]
    each = NUM_TEXTS // len(kinds)
    return [text for kind in kinds for text in list(dict.fromkeys(kind))[:each]]


def clips(params: Params, rows: Path, validation: bool) -> list[tuple[str, str, str, np.ndarray]]:
    """(kind of voice, text, condition, float32 at 16 kHz) of each clip."""
    voice = params.voice
    allowed = voices.of_packages(voice.validation_voices if validation else voice.heldout_voices)
    natural = [name for name in allowed if name.startswith(f"{NATURAL_ENGINE}-")]
    by_kind = dict(zip(KINDS, (natural, [name for name in allowed if name not in natural]), strict=True))
    talkers = voices.plan_talkers(voice, Path("data"))
    spoken = []
    for number, text in enumerate(tqdm(texts(rows), "voices", mininterval=2)):
        for kind, names in by_kind.items():
            rng = np.random.default_rng([voice.seed, number, KINDS.index(kind)])
            rate, pitch = (
                augment.draw_between(limits, rng) for limits in (voice.rate, voice.pitch_semitones)
            )
            clean = voices.say(str(rng.choice(names)), text, rate, pitch)
            for condition in ("clean", *in_turn(SOUND, number, CONDITIONS_EACH)):
                draw = Draw(draw_strength(condition, voice, rng), rng, partial(draw_talkers, talkers))
                level = augment.draw_between(voice.level_db, rng)
                audio = augment.at_level(CONDITIONS[condition].degrade(clean, draw), level)
                spoken.append((kind, text, condition, audio))
    return spoken


def texts_of(student: Student, spoken: list[tuple[str, str, str, np.ndarray]], name: str) -> list[str]:
    """The transcript of each clip."""
    audio = [clip[-1] for clip in spoken]
    order = sorted(range(len(audio)), key=lambda i: len(audio[i]))
    transcripts = [""] * len(audio)
    for start in tqdm(range(0, len(order), BATCH), name, mininterval=2):
        places = order[start : start + BATCH]
        hypotheses: list[Hypothesis] = student.transcribe([audio[i] for i in places], **LIMITS)
        for place, hypothesis in zip(places, hypotheses, strict=True):
            transcripts[place] = student.transcript(hypothesis) or ""
    return transcripts


if __name__ == "__main__":
    main()
