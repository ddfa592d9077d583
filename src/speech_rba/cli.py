"""The command line: run the chain, talk to the student, compare, promote and roll back."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from speech_rba.config import load_params
from speech_rba.errors import UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@app.command()
def run() -> None:
    """Run every stage that changed, as a Prefect flow."""
    sys.exit(subprocess.call([sys.executable, "-m", "flows.pipeline"]))


@app.command()
def stages() -> None:
    """Print the graph of stages: what each waits for, whether it would run, and when it last ran."""
    sys.exit(subprocess.call([sys.executable, "-m", "flows.graph_view"]))


@app.command()
def talk(
    file: Path,
    method: Annotated[str | None, typer.Option(help="sft, rba, or base for the untuned student")] = None,
) -> None:
    """Answer a spoken question (WAV, FLAC or OGG; any rate; mono or stereo; up to 30 s) with the candidate's method."""
    from speech_rba.data.audio import read_audio

    registration = Path("artifacts/register/registration.json")
    if method is None and not registration.exists():
        raise UserError(
            f"{registration} is missing: run `make run` first, or name a --method that is trained"
        )
    method = method or json.loads(registration.read_text())["method"]
    base, adapter = Path("artifacts/base"), None if method == "base" else Path("artifacts/align") / method
    for folder in filter(None, (base, adapter)):
        if not folder.exists():
            raise UserError(f"{folder} is missing: run `make run` first, or name a method that is there")
    clip = read_audio(file)
    started = time.perf_counter()
    from speech_rba.model.answering import load_answerer  # after what can be wrong: it takes seconds

    answer = load_answerer(base, adapter)
    loaded = time.perf_counter()
    (result,) = answer([clip])
    took = time.perf_counter() - loaded
    if result.hypothesis is not None:
        print(f"hypotheses:  {result.hypothesis}")
    print(f"answer: {result.response}")
    print(f"{took:.2f} s for {len(clip) / 16_000:.2f} s of audio, after {loaded - started:.1f} s to load")


@app.command()
def compare() -> None:
    """Candidate, champion and previous side by side, with their scores of test items."""
    from speech_rba.registry import tracking

    show_side_by_side(tracking.compare(load_params().register_.model_name))


@app.command()
def review() -> None:
    """The candidates that wait for a person's decision, with their reward_hacking and score of test items."""
    from speech_rba.registry import tracking

    rows = tracking.waiting(load_params().register_.model_name)
    if rows:
        show(rows)
    print(
        "Promote:  speech-rba promote VERSION"
        if rows
        else "nothing waits: no candidate is newer than the champion"
    )


def show(rows: list[dict]) -> None:
    """A table of all keys, one row each."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*dict.fromkeys(key for row in rows for key in row))
    for row in rows:
        table.add_row(
            *(
                f"{v:.3f}" if isinstance(v, float) else str(v)
                for v in (row.get(c.header, "") for c in table.columns)
            )
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def show_side_by_side(versions: list[dict]) -> None:
    """A table of versions, one column each, headed by its alias: they have more scores than a terminal has columns."""
    keys = dict.fromkeys(key for version in versions for key in version if key != "alias")
    show([{"": key} | {version["alias"]: version.get(key, "") for version in versions} for key in keys])


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="of the candidates; the newest if not given")] = None,
    force: Annotated[bool, typer.Option(help="despite an alarm or failed check; needs --reason")] = False,
    reason: Annotated[str, typer.Option(help="goes into the audit log")] = "",
) -> None:
    """Make a candidate the champion; the champion before stays as previous.

    It is refused where an alarm was raised in its training, or where, on the same test items as the champion,
    it is significantly worse by register.rank_by or worse by more than register.limits allows.
    """
    from speech_rba.registry import tracking

    show_change(tracking.promote(load_params(), version, force, reason))


@app.command()
def rollback(reason: Annotated[str, typer.Option(help="goes into the audit log")] = "") -> None:
    """Make the previous version the champion again."""
    from speech_rba.registry import tracking

    show_change(tracking.rollback(load_params().register_.model_name, reason))


def show_change(record: dict) -> None:
    """A line of the audit log, for a person."""
    before = f"version {record['from']}" if record["from"] else "none"
    print(f"Champion: {record['model']} version {record['to']}, before it {before}; by {record['who']}")
    for check in record.get("checks", []):
        print(f"Checked:  {check}")
    if record.get("forced"):
        print(f"Forced:   {', '.join(record['forced'])}; {record['reason']}")
    print("Log:      mlruns/audit.jsonl")
    if record["action"] == "promote" and record["from"]:
        print("Undo:     speech-rba rollback")


@app.command()
def fetch_suite(
    dataset: Annotated[str, typer.Argument(help="OWNER/NAME@REVISION/SUBSET, the revision a commit or tag")],
    folder: Annotated[Path, typer.Argument(help="where its Parquet files go, a new folder")],
) -> None:
    """Download a benchmark of the hub in VoiceBench's form, to be scored from then on (set HF_HUB_OFFLINE=0)."""
    from speech_rba.suites import hub

    files = hub.fetch_suite(dataset, folder)
    name = re.sub(r"[^a-z0-9]+", "_", folder.name.lower()).strip("_")
    print(
        f"{folder} holds {', '.join(files)}\nAdd to params.yaml, below evaluate.suites:\n  {name}: {folder}"
    )


def main() -> None:
    """The commands, with an error the user can mend as one line."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
