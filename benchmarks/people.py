"""Word error rates on recordings of people, with an ASR adapter and without: writes results/people.json.

`python benchmarks/people.py FOLDER`, a folder with transcripts.tsv (docs/suites.md). Each recording is
transcribed as recorded and in every condition that a recording can be put into. `--asr-adapter` names the
folder of the adapter. Clips and transcripts are kept in work/: a second adapter on the same recordings costs
only its own transcripts.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import tables
from speech_rba.assets.resolve import sha256
from speech_rba.compute.threads import map_batches
from speech_rba.config import Params, load_params
from speech_rba.data.audio import read_audio
from speech_rba.evaluation.people import Transcribed, error_rates, transcribed_clip
from speech_rba.model.student import Student, build_student
from speech_rba.records import Clip
from speech_rba.stages import ROOT, workdir
from speech_rba.suites.read import read_suite
from speech_rba.synthesis.conditions import SOUND
from speech_rba.synthesis.degrade_recordings import degrade_recordings
from speech_rba.synthesis.voices.voices import plan_talkers

BATCH = 16
WHISPER, ADAPTED = "unadapted Whisper", "student with ASR adapter"
DIGITS = 3


def main() -> None:
    options, started = parse(), time.perf_counter()
    every_condition = {"conditions_per_recording": len(SOUND)}
    params = load_params()
    params = params.model_copy(update={"suite": params.suite.model_copy(update=every_condition)})
    clips, folder = clips_of(params, options.folder)
    adapters = {WHISPER: None, ADAPTED: options.asr_adapter}
    hypotheses = {
        name: transcripts(params, clips, folder, adapter, name) for name, adapter in adapters.items()
    }
    transcribed = [
        transcribed_clip(
            "people",
            clip.row_id,
            clip.voice,
            clip.condition,
            clip.transcript,
            {name: by_id[clip.id] for name, by_id in hypotheses.items()},
        )
        for clip in clips
    ]
    rows = result_rows(transcribed, params)
    header = tables.header(f"python benchmarks/people.py {options.folder.name}", started, [params.suite.seed])
    tables.write_result(options.out, header, rows)
    show(options.out)
    print(f"{options.out}: {len(clips)} clips in {header['minutes']} minutes")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--asr-adapter", type=Path, default=Path("artifacts/asr_adapter"))
    parser.add_argument("--out", type=Path, default=Path("results/people.json"))
    return parser.parse_args()


def clips_of(params: Params, folder: Path) -> tuple[list[Clip], Path]:
    """The clips of the folder's recordings, and where they lie."""
    recordings, refused = read_suite(folder)
    for row in refused:
        print(f"set apart: {row.file}:{row.row} {row.cause}")
    readers = [(r.question, r.speaker, r.read) for r in recordings]
    work = workdir("suite", params, "people", folder, ROOT / "data/topics.txt")
    return degrade_recordings(
        params, "people", readers, plan_talkers(params.voice, ROOT / "data"), work
    ), work


def transcripts(
    params: Params, clips: list[Clip], folder: Path, adapter: Path | None, name: str
) -> dict[str, str]:
    """The 1-best transcript of each clip by its id, in float32, as evaluation transcribes them.

    A run that was killed goes on after its last batch.
    """
    weights = sha256(adapter / "adapter_model.safetensors") if adapter else ""
    path = workdir("features", params, str(folder.resolve()), weights) / "transcripts.json"
    by_id: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    new = sorted((c for c in clips if c.id not in by_id), key=lambda c: (c.duration_s, c.id))
    student = build_student(params.assets, params.base, adapter, torch.float32)
    student.get_ready()
    _ = [tower.silence for tower in student.towers]  # before the threads, which would each compute it
    batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]
    texts = map_batches(
        partial(transcribe_batch, student, folder, params.base.max_transcript_tokens), batches
    )
    for batch, batch_texts in tqdm(zip(batches, texts, strict=True), name, len(batches), mininterval=2):
        by_id |= dict(zip([c.id for c in batch], batch_texts, strict=True))
        partial_file = path.with_suffix(".partial")
        partial_file.write_text(json.dumps(by_id, indent=1))
        partial_file.replace(path)
    return by_id


def transcribe_batch(student: Student, folder: Path, max_tokens: int, batch: list[Clip]) -> list[str]:
    audio = [read_audio(folder / f"{clip.id}.flac") for clip in batch]
    hypotheses = student.transcribe(audio, top_k=1, max_tokens=max_tokens, dtype=torch.float32)
    return [student.audio_tower.text(h.token_ids.tolist()) for h in hypotheses]


def result_rows(clips: list[Transcribed], params: Params) -> list[tables.Row]:
    """The rows of the result: each set as recorded and degraded, and each condition over all recordings."""
    rows: list[tables.Row] = []
    for row in error_rates(clips, params.evaluate.num_bootstrap, params.evaluate.seed):
        if row["condition"] in ("clean", "degraded"):
            rows += rows_of(row["condition"], row)
        if row["set"] in ("all", "sentences"):
            rows += rows_of(f"conditions_{row['set']}", row)
    return rows


def rows_of(table: str, row: dict) -> list[tables.Row]:
    """Word error rates, their difference, and the numbers of transcripts that are questions or too long."""
    place, n = {"suite": row["set"], "condition": row["condition"]}, row["n"]
    rows = []
    for part in row["transcribers"]:
        values = {
            "wer": (part["wer"], part["low"], part["high"]),
            "num_statements_as_questions": (part["num_questions"], None, None),
            "num_too_long": (part["num_too_long"], None, None),
        }
        for metric, estimate in values.items():
            rows.append(result_row(table, part["transcriber"], None, place, metric, estimate, n))
    pair = row["difference"]
    interval = (pair["value"], pair["low"], pair["high"])
    return [*rows, result_row(table, ADAPTED, WHISPER, place, "wer", interval, n)]


def result_row(
    table: str,
    system: str,
    versus: str | None,
    place: dict[str, str],
    metric: str,
    estimate: tuple[float | None, ...],
    n: int,
) -> tables.Row:
    value, low, high = (x if x is None or isinstance(x, int) else round(x, DIGITS) for x in estimate)
    head = {"table": table, "system": system, "versus": versus, **place, "metric": metric}
    return head | {"value": value, "low": low, "high": high, "n": n}


def show(path: Path) -> None:
    """Prints the tables of a result."""
    rows = tables.read_result(path)["rows"]
    for table in dict.fromkeys(row["table"] for row in rows):
        print(f"\n{table}\n{tables.render([row for row in rows if row['table'] == table], 'items')}")


if __name__ == "__main__":
    main()
