"""Benchmarks that others recorded: what a folder or a dataset of the hub asks, and the recordings.

A folder holds one of

- `transcripts.tsv` (file, text): recordings that are only heard, with nothing to answer;
- one other `.tsv` with a heading (question, answer, file under wav/), as LLaMA-Questions;
- `.parquet` files in VoiceBench's form (arXiv 2410.17196): `prompt`, `audio`, and what its subset is scored by.

`hub:OWNER/NAME/SUBSET` is the folder SUBSET of a dataset of the hub, downloaded once (set HF_HUB_OFFLINE=0).
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from speech_rba.errors import UserError
from speech_rba.records import CHOICES, Instruction, Question

TRANSCRIPTS = "transcripts.tsv"
HUB = "hub:"
SAFETY = "advbench"  # the subset of requests to refuse
UNSCORED = "bbh"  # the subset whose answers are parsed task by task


@dataclass(frozen=True)
class Recording:
    """A question, without anything right or wrong to say where it is only to be heard or judged, and its sound."""

    question: Question
    file: Path | bytes

    def open(self) -> Path | BinaryIO:
        """What `read_audio` reads."""
        return io.BytesIO(self.file) if isinstance(self.file, bytes) else self.file


def read_benchmark(place: str) -> list[Recording]:
    """The recordings of a folder, or of a dataset of the hub, in their order.

    Raises:
        UserError: it is none of these forms, a line or column is missing, or a file lies outside the folder.
    """
    folder = _downloaded(place.removeprefix(HUB)) if place.startswith(HUB) else Path(place)
    if parquet := sorted(folder.glob("*.parquet")):
        return _parquet(parquet, folder.name)
    return [_recording(folder, *line) for line in listed(folder)]


def listed(folder: Path) -> list[tuple[str, str, list[str]]]:
    """(file inside `folder`, what it says, right answers) of each line of its .tsv."""
    tables = sorted(folder.glob("*.tsv"))
    if len(tables) != 1:
        raise UserError(
            f"{folder} is no suite: it needs questions.jsonl, transcripts.tsv (file, text), one .tsv (question, "
            "answer, file) beside wav/, or VoiceBench's .parquet files"
        )
    with open(tables[0], encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    said = tables[0].name == TRANSCRIPTS
    if short := next((line for line in lines if len(line) < (2 if said else 3)), None):
        raise UserError(f"{tables[0]} has a line with too few columns: {short}")
    found = [(line[0], line[1], []) if said else (f"wav/{line[2]}", line[0], [line[1]]) for line in lines]
    for name, *_ in found:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{tables[0]} names {name}; allowed are files inside {folder}")
    return found if said else found[1:]


def _recording(folder: Path, name: str, text: str, answers: list[str]) -> Recording:
    return Recording(Question(id=name, prompt=text.strip(), answers=answers), folder / name)


def _downloaded(dataset: str) -> Path:
    from huggingface_hub import snapshot_download

    owner, _, rest = dataset.partition("/")
    name, _, subset = rest.partition("/")
    if not subset:
        raise UserError(f"{HUB}{dataset} must name a subset: {HUB}OWNER/NAME/SUBSET")
    try:
        root = snapshot_download(f"{owner}/{name}", repo_type="dataset", allow_patterns=f"{subset}/*.parquet")
    except OSError as error:
        raise UserError(f"cannot fetch {HUB}{dataset} ({error}); set HF_HUB_OFFLINE=0, or name a folder") from error
    return Path(root) / subset


def _parquet(files: list[Path], subset: str) -> list[Recording]:
    import pyarrow.parquet as pq

    if subset.startswith(UNSCORED):
        raise UserError(f"{files[0].parent} cannot be scored here: name another subset")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    missing = {"prompt", "audio"} - {name for row in rows[:1] for name in row}
    if missing or not rows:
        raise UserError(f"{files[0].parent} has {'no rows' if not missing else f'no column {sorted(missing)}'}")
    return [_voicebench(row, f"{number:05d}", subset) for number, row in enumerate(rows)]


def _voicebench(row: dict[str, Any], number: str, subset: str) -> Recording:
    """One row; the columns it has say how it is scored, of requests to refuse the subset's name."""
    if not (row["audio"] or {}).get("bytes"):
        raise UserError(f"row {number} of {subset} holds no sound, at most the name of a file: store the bytes in it")
    reference = str(row.get("reference") or "").strip()
    names, arguments = row.get("instruction_id_list") or [], row.get("kwargs") or []
    given = [{k: v for k, v in (some or {}).items() if v is not None} for some in arguments]
    if reference in CHOICES:
        scored: dict[str, Any] = {"choice": reference}
    elif reference:
        scored = {"answers": [reference]}
    elif names:
        scored = {"instructions": [Instruction(name=n, arguments=a) for n, a in zip(names, given, strict=True)]}
    else:
        scored = {"refuse": True} if subset.startswith(SAFETY) else {"judged": True}
    return Recording(
        Question(id=number, prompt=row["prompt"].strip(), **{"answers": []} | scored), row["audio"]["bytes"]
    )
