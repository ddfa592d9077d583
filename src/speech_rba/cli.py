"""Train, ask and review the student: `run` makes a candidate, `review` shows it, `promote` puts it in use."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speech_rba.config import load_params
from speech_rba.errors import UserError

if TYPE_CHECKING:
    from speech_rba.model.answering import AnswerResult


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

MAKE, ASK, DECIDE = "Make a candidate", "Ask the student", "Decide on a candidate"  # the panels of --help
Reason = Annotated[str, typer.Option(help="Why; written to the audit log.")]


@app.command(rich_help_panel=MAKE)
def run() -> None:
    """Run every stage whose inputs changed, as a Prefect flow."""
    sys.exit(subprocess.call([sys.executable, "-m", "flows.pipeline"]))


@app.command(rich_help_panel=MAKE)
def stages() -> None:
    """Print the graph of stages: what each waits for, whether it would run, and when it last ran."""
    sys.exit(subprocess.call([sys.executable, "-m", "flows.graph_view"]))


@app.command(rich_help_panel=MAKE)
def fetch_suite(
    dataset: Annotated[
        str, typer.Argument(help="OWNER/NAME@REVISION/SUBSET; the revision is a commit or a tag.")
    ],
    folder: Annotated[Path, typer.Argument(help="A new folder for its Parquet files.")],
) -> None:
    """Download a benchmark in VoiceBench's form from the hub, to evaluate on it (set HF_HUB_OFFLINE=0)."""
    from speech_rba.suites import hub

    files = hub.fetch_suite(dataset, folder)
    print(f"{folder} holds {', '.join(files)}")
    print(f"Next: {suite_entry(folder)}")


@app.command(rich_help_panel=MAKE)
def record(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one to go on with.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8002,
) -> None:
    """Open a page that records ten spoken questions with the microphone, to evaluate on them."""
    from speech_rba.server import record
    from speech_rba.server.commands import listen
    from speech_rba.server.listen import open_socket, url_of

    session = record.open_session(folder, record.choose_questions(Path("data/suites/spoken_qa")))
    opened = open_socket("127.0.0.1", port)
    print(f"Page:    {url_of(opened)}, for a browser on this machine; stop with Ctrl-C", flush=True)
    listen(record.build_app(session, suite_entry(folder)), opened)
    num_recorded = len(session.recorded())
    print(f"{folder} holds {num_recorded} of {len(session.questions)} questions")
    again = f"speech-rba record {folder}, to record the others; or " * (num_recorded < len(session.questions))
    print(f"Next:    {again}{suite_entry(folder)}")


def suite_entry(folder: Path) -> str:
    """What to do so that the next run evaluates on the suite in `folder`."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    return f"add to params.yaml, below evaluate.suites:\n  {name}: {folder}"


@app.command(rich_help_panel=ASK)
def talk(
    file: Annotated[
        Path, typer.Argument(help="A recording or a video, of any kind and rate; up to 30 minutes.")
    ],
    method: Annotated[str | None, typer.Option(help="A trained method, or base for no adapter.")] = None,
) -> None:
    """Answer a spoken question, with the candidate's method if none is named."""
    from speech_rba.data.audio import read_audio

    base, adapter = student_folders(method)
    clip = read_audio(file)
    started = time.perf_counter()
    # last: the imports take seconds, an error above none
    from speech_rba.model.light_import import import_transformers

    import_transformers()
    from speech_rba.model.answering import load_answerer

    answer = load_answerer(base, adapter)
    loaded = time.perf_counter()
    (result,) = answer([clip])
    answered = time.perf_counter()
    if result.hypothesis is not None:
        print(f"Transcript: {shown_transcript(result)}")
    print(f"Answer:     {result.response}")
    seconds = f"{answered - loaded:.2f} s for {len(clip) / 16_000:.2f} s of audio"
    print(f"Time:       {seconds}, after {loaded - started:.1f} s to load")
    if adapter:
        print(f"Next:       speech-rba talk {file} --method base, the answer without the adapter")


def shown_transcript(result: "AnswerResult") -> str:
    """The transcript, with a question mark in brackets behind each uncertain word; without words, why."""
    if result.no_speech:
        return f"(nothing: {result.no_speech})"
    return " ".join(f"{w.text} (?)" if w.uncertain else w.text for w in result.words)


@app.command(rich_help_panel=ASK)
def serve(
    version: Annotated[
        str | None, typer.Option(help="Of the registry: champion, candidate, or a candidate's number.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of artifacts/: a trained method, or base.")] = None,
    host: Annotated[str, typer.Option(help="Beyond loopback only with SPEECH_RBA_API_KEY.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    max_waiting: Annotated[int, typer.Option(help="Requests that wait for an answer.", min=1)] = 16,
    max_upload_mb: Annotated[float, typer.Option(help="Size of a request.", min=0.001)] = 64,
) -> None:
    """Serve a student as an OpenAI-compatible API; without an option the candidate's method of artifacts/."""
    from speech_rba.server import commands

    limits = commands.Limits(max_waiting, max_upload_mb)
    if version and method:
        raise UserError("--version is of the registry and --method of artifacts/: name one of them")
    if version:
        with commands.registered_source(load_params().register_.model_name, version) as source:
            commands.serve(source, host, port, limits)
    else:
        base, adapter = student_folders(method)
        name = adapter.name if adapter else "base"
        label = f"{adapter or base} of {Path.cwd().name}"
        commands.serve(commands.Source(base, adapter, f"speech-rba/{name}", label), host, port, limits)


@app.command(rich_help_panel=ASK)
def demo(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8001,
    feedback: Annotated[Path, typer.Option(help="The file that thumbs are written to.")] = Path(
        "feedback/feedback.jsonl"
    ),
    max_upload_mb: Annotated[float, typer.Option(help="Size of a recording.", min=0.001)] = 64,
) -> None:
    """Talk to the cascade, the base and every trained method on a page of this machine, and rate answers."""
    from speech_rba.server import commands

    base, _ = student_folders("base")
    commands.demo(base, Path("artifacts/align"), port, feedback, max_upload_mb)


def student_folders(method: str | None) -> tuple[Path, Path | None]:
    """The folders of the base and of the method's adapter, None for the base alone.

    Raises:
        UserError: one of them is missing, or no method is named and none is registered.
    """
    registration = Path("artifacts/register/registration.json")
    if method is None and not registration.exists():
        raise UserError(f"{registration} is missing: run `make run` first, or name a trained --method")
    method = method or json.loads(registration.read_text())["method"]
    base, adapter = Path("artifacts/base"), None if method == "base" else Path("artifacts/align") / method
    for folder in filter(None, (base, adapter)):
        if not folder.exists():
            raise UserError(f"{folder} is missing: run `make run` first, or name a trained --method")
    return base, adapter


@app.command(rich_help_panel=DECIDE)
def review() -> None:
    """List the candidates that wait for a decision, with reward-hacking checks and test score."""
    from speech_rba.registry.review import waiting

    rows = waiting(load_params().register_.model_name)
    if rows:
        print_table(rows)
        print("Next: speech-rba promote VERSION, or speech-rba compare")
    else:
        print("No candidate waits: none is newer than the champion.\nNext: speech-rba run")


@app.command(rich_help_panel=DECIDE)
def compare() -> None:
    """Show candidate, champion and previous side by side, with their test scores."""
    from speech_rba.registry import review

    print_side_by_side(review.compare(load_params().register_.model_name))
    print("Next: speech-rba promote, or speech-rba rollback")


@app.command(rich_help_panel=DECIDE)
def promote(
    version: Annotated[str | None, typer.Argument(help="A candidate; the newest if omitted.")] = None,
    force: Annotated[bool, typer.Option(help="Promote despite failed checks; needs --reason.")] = False,
    reason: Reason = "",
) -> None:
    """Make a candidate the champion; the champion before becomes previous.

    It is refused if a reward-hacking check failed in its training, or if, on the same test items as the
    champion, it is significantly worse by register.rank_by or worse by more than register.limits allows.
    """
    from speech_rba.registry import promotion

    print_change(promotion.promote(load_params(), version, force, reason))


@app.command(rich_help_panel=DECIDE)
def rollback(reason: Reason = "") -> None:
    """Make the previous version the champion again."""
    from speech_rba.registry import promotion

    print_change(promotion.rollback(load_params().register_.model_name, reason))


def print_table(rows: list[dict]) -> None:
    """Prints a table with a column for each key."""
    from rich.console import Console
    from rich.table import Table

    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*keys)
    for row in rows:
        values = [row.get(key, "") for key in keys]
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_side_by_side(versions: list[dict]) -> None:
    """Prints one column a version, since a version has more scores than a terminal has columns."""
    keys = dict.fromkeys(key for version in versions for key in version if key != "alias")
    print_table([{"": key} | {v["alias"]: v.get(key, "") for v in versions} for key in keys])


def print_change(record: dict) -> None:
    """Prints a line of the audit log, and what to do next."""
    before = f"version {record['from']}" if record["from"] else "none"
    print(f"Champion: {record['model']} version {record['to']}, before it {before}; by {record['who']}")
    for check in record.get("checks", []):
        print(f"Checked:  {check}")
    if record.get("forced"):
        print(f"Forced:   {', '.join(record['forced'])}; {record['reason']}")
    print("Log:      mlruns/audit.jsonl")
    can_undo = record["action"] == "promote" and record["from"]
    print("Undo:     speech-rba rollback" if can_undo else "Next:     speech-rba compare")


def main() -> None:
    """The commands, with an error that the user can correct as one line."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
