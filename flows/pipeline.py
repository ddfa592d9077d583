"""The pipeline as a Prefect flow: DVC decides which stages run, Prefect shows, limits and stops them.

`python -m flows.pipeline` runs it once, on the server that PREFECT_API_URL names or on a temporary one.
"""

import atexit
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
from annotated_types import Gt
from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import stages
from flows.progress import PROGRESS
from flows.servers import prefect_command
from flows.terminal import LOG, show_progress
from speech_rba.errors import UserError

SCORES = Path("artifacts/evaluate/scores.json")
REPORT = Path("artifacts/report/index.html")
SERVER_START_S = 120
RECORD_S = 10
MEANING = {
    "Completed": "the stage ran",
    "Restored": "the outputs came from the cache",
    "Skipped": "the stage did not change",
    "Verified": "the stage is frozen, its outputs are committed",
}


@task(task_run_name="{name}")
def stage(name: str, unchanged: bool, timeout_s: float | None) -> State:
    """The stage as DVC left it, under a name of MEANING, or Failed with its last lines."""
    log, progress = get_run_logger(), PROGRESS.start(name)

    def log_line(line: str) -> None:
        log.info(line)
        progress.line = line

    try:
        outcome = "Skipped" if unchanged else stages.run_stage(name, timeout_s, log_line)
    except stages.StageError as error:
        PROGRESS.end(name, "Failed")
        return Failed(message=str(error))
    PROGRESS.end(name, outcome)
    return Completed(name=outcome, message=MEANING[outcome])


@flow(name="pipeline")
def pipeline(
    timeout_s: Annotated[float, Gt(0)] | None = None, num_parallel: Annotated[int, Gt(0)] = 2
) -> State:
    """Every stage of dvc.yaml, each after those it waits for; unchanged stages are skipped.

    Args:
        timeout_s: the longest that one stage may take, in seconds; empty for no limit.
        num_parallel: how many stages may run at once. Each uses all cores but waits for its threads: two
            alignments on two cores took 235 s at once and 368 s one after the other. Where memory is short,
            or on one GPU, take 1.
    """
    try:
        stages.check_project()
        waits_for, unchanged = stages.read_graph()
    except UserError as error:
        return Failed(message=str(error))
    stages.CLOSED.clear()
    PROGRESS.begin(waits_for)
    futures = run_stages(waits_for, unchanged, timeout_s, num_parallel)
    wait_until_recorded(futures.values())
    states = {name: future.state for name, future in futures.items()}
    for state in states.values():
        if state.is_failed() or state.is_crashed():
            return Failed(message=state.message)
    show_results()
    return Completed(message=", ".join(f"{name}: {state.name}" for name, state in states.items()))


def run_stages(
    waits_for: dict[str, list[str]], unchanged: set[str], timeout_s: float | None, num_parallel: int
) -> dict[str, PrefectFuture]:
    """The future of each stage, all ended. Where this is interrupted, no stage lives."""
    futures: dict[str, PrefectFuture] = {}
    runner: ThreadPoolTaskRunner[State] = ThreadPoolTaskRunner(max_workers=num_parallel)
    with runner:
        try:
            for name, earlier in waits_for.items():
                inputs = {"name": name, "unchanged": name in unchanged, "timeout_s": timeout_s}
                futures[name] = runner.submit(stage, inputs, wait_for=[futures[other] for other in earlier])
            for future in futures.values():
                future.wait()
        except BaseException:  # Prefect's cancellation and a signal do not reach submitted tasks
            stages.stop_all()
            raise
    return futures


def wait_until_recorded(futures: Iterable[PrefectFuture]) -> None:
    """The server holds the last state of every task; it writes states late and loses them if it stops."""
    deadline = time.monotonic() + RECORD_S
    with get_client(sync_client=True) as client:
        for future in futures:
            while time.monotonic() < deadline:
                with suppress(ObjectNotFound):
                    if client.read_task_run(future.task_run_id).state_id == future.state.id:
                        break
                time.sleep(0.1)


def show_results() -> None:
    """The run's artifacts hold the table of scores and a link to the report, where these files exist."""
    if SCORES.exists():
        create_markdown_artifact(results_table(json.loads(SCORES.read_text())), key="results")
    if REPORT.exists():
        create_link_artifact(REPORT.resolve().as_uri(), key="report", link_text="Report")


def results_table(scores: dict) -> str:
    """Markdown: a row a system, a column a suite and metric, value with interval over all conditions.

    The text input has no conditions; it is in the same column. A value that was not measured is a dash.
    """
    cells: dict[tuple[str, str], str] = {}
    for row in scores["scores"]:
        if row["condition"] in ("all", "text"):
            measured = row["value"] is not None
            cell = "{value:.3f} ({low:.3f} to {high:.3f}), n {n}".format(**row) if measured else "-"
            cells[f"{row['suite']} {row['metric']}", row["system"]] = cell
    columns = list(dict.fromkeys(column for column, _ in cells))
    rows = [["system", *columns], ["---"] * (len(columns) + 1)]
    rows += [[system, *row_cells(cells, columns, system)] for system in scores["systems"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def row_cells(cells: dict[tuple[str, str], str], columns: list[str], system: str) -> list[str]:
    """The cells of a system, empty where it was not scored."""
    return [cells.get((column, system), "") for column in columns]


def serve() -> str:
    """The address of a Prefect server that answers: the one that the settings name, else a temporary one.

    The temporary server is a process that ends with this one and keeps its history in PREFECT_HOME. Prefect
    can start one too, but imports the whole server into this process for it, which takes longer.

    Raises:
        UserError: the temporary server does not start; the message names its log.
    """
    if url := PREFECT_API_URL.value():
        return url
    log = PREFECT_HOME.value() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open(log, "w") as output:
        process = subprocess.Popen(
            prefect_command(port),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the flow, whose last state the server still has to take
            preexec_fn=stages.die_with_parent,
        )
    atexit.register(process.terminate)  # after Prefect's threads have sent their last logs and events
    wait_for_port(port, process, log)
    return f"http://127.0.0.1:{port}/api"


def wait_for_port(port: int, process: subprocess.Popen, log: Path) -> None:
    """Holds when the server accepts connections, which it does once it is ready."""
    deadline = time.monotonic() + SERVER_START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise UserError(f"the temporary Prefect server did not start, see {log}")


def check_server() -> None:
    """Holds when the Prefect server that the settings name answers and takes this process's password.

    Raises:
        UserError: it does not; the message says what to set.
    """
    url = PREFECT_API_URL.value()
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError) as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            mend = "it does not take this password: set PREFECT_API_AUTH_STRING to USER:PASSWORD"
        else:
            reason = str(error).splitlines()[0]
            mend = f"no answer ({reason}): start it, or set PREFECT_API_URL to http://HOST:PORT/api"
        raise UserError(f"Prefect at {url}: {mend}") from error


def main() -> None:
    """Runs the pipeline and prints what to do next; exits 1 with the last lines of a stage that failed."""
    try:
        stages.check_project()
        with show_progress(), temporary_settings({PREFECT_API_URL: serve()}):
            check_server()
            state = pipeline(return_state=True)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; the next run goes on from the last checkpoints\nlog: {LOG}")
    if not state.is_completed():
        sys.exit(f"error: {state.message}\nlog: {LOG}")
    print(
        f"Report:   {REPORT}\n"
        "Runs:     mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db "
        "--artifacts-destination mlruns/artifacts --host 127.0.0.1\n"
        "Talk:     speech-rba talk FILE.wav\n"
        "Promote:  speech-rba promote\n"
        f"Log:      {LOG}"
    )


if __name__ == "__main__":
    main()
