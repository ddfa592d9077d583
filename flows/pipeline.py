"""The pipeline as a Prefect flow: DVC says what to do, Prefect shows it, limits it and stops it.

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

from flows import stages, supervisor
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
def stage(name: str, settled: bool, timeout_s: float | None) -> State:
    """The stage as DVC left it, under a name of MEANING, or Failed with its last lines."""
    try:
        done = "Skipped" if settled else stages.run_stage(name, timeout_s, get_run_logger().info)
    except stages.StageError as error:
        return Failed(message=str(error))
    return Completed(name=done, message=MEANING[done])


@flow(name="pipeline")
def pipeline(
    timeout_s: Annotated[float, Gt(0)] | None = None, num_parallel: Annotated[int, Gt(0)] = 2
) -> State:
    """Every stage of dvc.yaml, each after those it needs; what did not change is skipped.

    Args:
        timeout_s: the longest that one stage may take, in seconds; empty for no limit.
        num_parallel: how many stages may run at once. Each uses all cores but waits for its threads: two alignments on
            two cores took 235 s at once and 368 s one after the other. Where memory is short, or on one GPU, take 1.
    """
    try:
        stages.check_project()
        before, settled = stages.read_graph()
    except UserError as error:
        return Failed(message=str(error))
    stages.CLOSED.clear()
    futures = {}
    with ThreadPoolTaskRunner(max_workers=num_parallel) as runner:
        try:
            for name, needs in before.items():
                inputs = {"name": name, "settled": name in settled, "timeout_s": timeout_s}
                futures[name] = runner.submit(stage, inputs, wait_for=[futures[need] for need in needs])
            for future in futures.values():
                future.wait()
        except BaseException:  # cancelled, interrupted: Prefect does not reach what was submitted
            stages.stop_all()
            raise
    wait_until_recorded(futures.values())
    if failed := [
        future.state for future in futures.values() if future.state.is_failed() or future.state.is_crashed()
    ]:
        return Failed(message=failed[0].message)
    show_results()
    return Completed(message=", ".join(f"{name}: {future.state.name}" for name, future in futures.items()))


def wait_until_recorded(futures: Iterable[PrefectFuture]) -> None:
    """The server holds the last state of every task: it writes them late, and would lose them if it stopped now."""
    deadline = time.monotonic() + RECORD_S
    with get_client(sync_client=True) as client:
        for future in futures:
            while time.monotonic() < deadline:
                with suppress(ObjectNotFound):
                    if client.read_task_run(future.task_run_id).state_id == future.state.id:
                        break
                time.sleep(0.1)


def show_results() -> None:
    """The scores as a table and a link to the report among the run's artifacts, as far as the pipeline makes them."""
    if SCORES.exists():
        create_markdown_artifact(results_table(json.loads(SCORES.read_text())), key="results")
    if REPORT.exists():
        create_link_artifact(REPORT.resolve().as_uri(), key="report", link_text="Report")


def results_table(scores: dict) -> str:
    """Markdown: a row a system, a column a suite and metric, value with interval over all conditions.

    The text input has no conditions; it stands in the same column. A value that could not be measured is a dash.
    """
    cells = {}
    for row in scores["scores"]:
        if row["condition"] in ("all", "text"):
            value = (
                "-" if row["value"] is None else "{value:.3f} ({low:.3f} to {high:.3f}), n {n}".format(**row)
            )
            cells[f"{row['suite']} {row['metric']}", row["system"]] = value
    columns = list(dict.fromkeys(column for column, _ in cells))
    rows = [["system", *columns], ["---"] * (len(columns) + 1)]
    rows += [
        [system, *(cells.get((column, system), "") for column in columns)] for system in scores["systems"]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def serve() -> str:
    """The address of a Prefect server that answers: the one that the settings name, else a temporary one.

    Prefect's own temporary server imports the whole server in this process too; this one does not, and starts
    sooner. It keeps its history in PREFECT_HOME.

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
            supervisor.prefect_server(port),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the flow, whose last state this server still has to take
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


def reach() -> None:
    """Holds when the Prefect server that the settings name lets this process in.

    Raises:
        UserError: it does not, or does not answer; the message says what to set.
    """
    url = PREFECT_API_URL.value()
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError) as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            mend = "it does not take this password: set PREFECT_API_AUTH_STRING to USER:PASSWORD as the server knows it"
        else:
            mend = f"no answer ({str(error).splitlines()[0]}): start it, or set PREFECT_API_URL to http://HOST:PORT/api"
        raise UserError(f"Prefect at {url}: {mend}") from error


def main() -> None:
    """Runs the pipeline and says what to do next; exits 1 with the reason if it failed."""
    try:
        stages.check_project()
        with temporary_settings({PREFECT_API_URL: serve()}):
            reach()
            state = pipeline(return_state=True)
    except UserError as error:
        sys.exit(f"error: {error}")
    if not state.is_completed():
        sys.exit(f"error: {state.message}")
    print(
        f"Report:   {REPORT}\n"
        "Runs:     mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db "
        "--artifacts-destination mlruns/artifacts --host 127.0.0.1\n"
        "Talk:     speech-rba talk FILE.wav\n"
        "Promote:  speech-rba promote"
    )


if __name__ == "__main__":
    main()
