"""`make up`: MLflow, Prefect and a worker on this machine, kept alive until one signal stops them all.

The servers encode_audio on loopback alone. With accounts, which two passwords in the environment switch on, MLflow knows a
`reviewer`, and the worker as `trainer`, who may register candidates but not promote them; Prefect knows an `operator`.
"""

import argparse
import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.stages import check_project, die_with_parent
from speech_rba.errors import UserError

HOST = "127.0.0.1"
REVIEWER, TRAINER, OPERATOR = "reviewer", "trainer", "operator"
PASSWORDS = {user: f"SPEECH_RBA_{user.upper()}_PASSWORD" for user in (REVIEWER, OPERATOR)}
CLONE = Path("work/nightly")
POOL = "local"  # of the worker on this machine
START_S = 90  # for a server's first answer, on a busy machine
ASK_S = 15  # between two questions to a server whether it still answers; its death is seen at once
PATIENCE_S = 60  # a server that is silent for longer is started again
STOP_S = 15
TICK_S = 1
REAP_S = 10  # between two looks at the processes of flows
REAP_ALL_S = 60  # between two questions to Prefect, where no look found a change
LONGEST_WAIT_S = 30  # between two starts of what keeps dying
KNOWN_S = 60  # for which MLflow does not hash a password again, which takes half a second of each request
OPEN_STATES = ["PENDING", "RUNNING", "CANCELLING"]


@dataclass
class Service:
    """A process that is to live, and where it answers; `url` is empty for the worker, which answers nowhere."""

    name: str
    command: list[str]
    env: dict[str, str]
    url: str
    log: Path
    process: subprocess.Popen | None = None
    deaths: int = 0
    answered: float = 0.0  # when it last did
    not_before: float = 0.0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the others in order
                preexec_fn=die_with_parent,
            )
        self.answered = time.monotonic()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def wait(self) -> None:
        """Holds when it answers.

        Raises:
            UserError: it died or stayed silent; the message names its log.
        """
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(0.2)
        raise UserError(f"{self.name} did not start, see {self.log}")

    def keep_alive(self) -> None:
        """It runs, or will after a pause that grows with each death; what no longer answers is killed."""
        now = time.monotonic()
        if self.process.poll() is None:
            silent_s = now - self.answered if self.url else 0
            if silent_s >= ASK_S and self.answers():
                self.answered = now
            elif silent_s > PATIENCE_S:
                self.process.kill()
            return
        if not self.not_before:
            self.deaths += 1
            pause = min(2 ** (self.deaths - 1), LONGEST_WAIT_S)
            self.not_before = now + pause
            print(f"{self.name} ended with {self.process.returncode}, starts again in {pause} s", flush=True)
        elif now >= self.not_before:
            self.not_before = 0.0
            self.start()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass
class Prefect:
    """The Prefect server's API, as far as the reaper of a pool needs it; `auth` is user:password, or empty.

    All workers of the pool are on this machine: it looks for their flows among its processes.
    """

    api: str
    auth: str
    pool: str = POOL
    running: set[str] | None = None
    asked: float = 0.0
    seen: set[str] = field(default_factory=set)

    def ask(self, path: str, body: dict) -> list | dict:
        headers = {"Content-Type": "application/json"}
        if self.auth:
            headers["Authorization"] = f"Basic {base64.b64encode(self.auth.encode()).decode()}"
        request = urllib.request.Request(f"{self.api}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def reap(self) -> None:
        """No run of the pool is open whose process is gone, two looks in a row; it would block all later ones."""
        running, now = set(running_flows()), time.monotonic()
        if running == self.running and not self.seen and now - self.asked < REAP_ALL_S:
            return
        chosen = {"state": {"type": {"any_": OPEN_STATES}}, "deployment_id": {"is_null_": False}}
        asked = {"flow_runs": chosen, "work_pools": {"name": {"any_": [self.pool]}}}
        open_runs = {run["id"]: run for run in self.ask("/flow_runs/filter", asked)}
        lost = open_runs.keys() - running
        for run_id in lost & self.seen:
            self.close(open_runs[run_id])
        self.running, self.asked, self.seen = (
            running,
            now,
            lost,
        )  # after all that may fail: then the next look asks

    def close(self, run: dict) -> None:
        """The run and what it left open are crashed, or cancelled where that was asked for."""
        cancelled = run["state"]["type"] == "CANCELLING"
        state = {
            "type": "CANCELLED" if cancelled else "CRASHED",
            "name": "Cancelled" if cancelled else "Crashed",
        }
        state["message"] = "its process was gone; the next run goes on from what it had finished"
        tasks = {
            "flow_runs": {"id": {"any_": [run["id"]]}},
            "task_runs": {"state": {"type": {"any_": OPEN_STATES}}},
        }
        for task in self.ask("/task_runs/filter", tasks):
            self.ask(f"/task_runs/{task['id']}/set_state", {"state": state, "force": True})
        for child in self.ask(
            "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}}}
        ):
            if child["state"]["type"] in OPEN_STATES:
                self.close(child)
        self.ask(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        print(f"flow run {run['name']} had lost its process: {state['name']}", flush=True)

    def try_to_reap(self) -> None:
        try:
            self.reap()
        except OSError as error:  # the server is on its way down or up; the next look finds the same
            print(f"the reaper could not ask Prefect: {error}", flush=True)


def running_flows() -> Iterator[str]:
    """The ids of the flow runs that have a process on this machine."""
    for process in psutil.process_iter():
        try:
            if run_id := process.environ().get("PREFECT__FLOW_RUN_ID"):
                yield run_id
        except psutil.Error:
            continue


def read_passwords() -> dict[str, str]:
    """The password of each person, from the environment; empty where nobody is to be asked.

    Raises:
        UserError: only one is given, or both are the same.
    """
    found = {user: os.environ.get(name, "") for user, name in PASSWORDS.items()}
    if any(found.values()) and (not all(found.values()) or len(set(found.values())) == 1):
        raise UserError(f"accounts need two different passwords: set {' and '.join(PASSWORDS.values())}")
    return found if all(found.values()) else {}


def services(mlflow_port: int, prefect_port: int, state: Path, passwords: dict[str, str]) -> list[Service]:
    """MLflow, Prefect and the worker, in the order in which they start."""
    mlflow, prefect = f"http://{HOST}:{mlflow_port}", f"http://{HOST}:{prefect_port}"
    env = {"PREFECT_WORKER_QUERY_SECONDS": "15", "PREFECT_WORKER_PREFETCH_SECONDS": "20"} | os.environ
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": mlflow,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_API_URL": f"{prefect}/api",
    }
    of_mlflow = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three times the memory, for nothing that is used here
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    of_prefect = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": prefect,
        "PREFECT_UI_API_URL": f"{prefect}/api",
        # how often it looks for what seldom happens: an idle server does little else
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT60S",
        "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",
    }
    of_mlflow_command = []
    if passwords:
        auth = state / "mlflow_auth.ini"
        folder = str(state).replace("%", "%%")  # MLflow reads this file with interpolation
        auth.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/mlflow_auth.db\n"
            f"auth_cache_ttl_seconds = {KNOWN_S}\n"
        )
        env |= {"MLFLOW_TRACKING_USERNAME": TRAINER, "MLFLOW_TRACKING_PASSWORD": secrets.token_urlsafe()}
        env |= {"PREFECT_API_AUTH_STRING": f"{OPERATOR}:{passwords[OPERATOR]}"}
        env = {
            name: value for name, value in env.items() if name not in PASSWORDS.values()
        }  # every stage reads it
        of_mlflow |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_AUTH_ADMIN_USERNAME": REVIEWER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": passwords[REVIEWER],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
        }
        of_mlflow_command = ["--app-name", "basic-auth"]
        of_prefect["PREFECT_SERVER_API_AUTH_STRING"] = env["PREFECT_API_AUTH_STRING"]
    python, logs = sys.executable, state / "logs"
    return [
        Service(
            "MLflow",
            [python, "-m", "flows.mlflow_server", "server", "--host", HOST, "--port", str(mlflow_port),
             "--workers", "1", *of_mlflow_command],
            env | of_mlflow, f"{mlflow}/health", logs / "mlflow.log",
        ),
        Service(
            "Prefect",
            prefect_server(prefect_port),
            env | of_prefect, f"{prefect}/api/health", logs / "prefect.log",
        ),
        Service(
            "worker",
            worker_command(POOL),
            env, "", logs / "worker.log",
        ),
    ]  # fmt: skip


def worker_command(pool: str) -> list[str]:
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]


def prefect_server(port: int) -> list[str]:
    """The command that starts it; without the import of the whole command line, which `prefect server start` makes."""
    app = ["--app-dir", str(Path(__file__).parents[1]), "--factory", "flows.prefect_server:create_app"]
    return [
        sys.executable,
        "-m",
        "uvicorn",
        *app,
        "--log-level",
        "warning",
        "--host",
        HOST,
        "--port",
        str(port),
    ]


def supervise(mlflow_port: int, prefect_port: int, state: Path) -> None:
    """Starts the services, then keeps them alive until SIGINT or SIGTERM; at the end none lives.

    Raises:
        UserError: a port is in use, a service did not start, or the passwords are no two.
    """
    passwords = read_passwords()
    for name, port in {"mlflow": mlflow_port, "prefect": prefect_port}.items():
        check_port(port, f"--{name}-port")
    for folder in (state, Path("mlruns")):
        folder.mkdir(parents=True, exist_ok=True)
    mlflow, prefect, worker = all_services = services(mlflow_port, prefect_port, state, passwords)
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, stop_now)
    try:
        for server in (mlflow, prefect):
            server.start()
        for server in (mlflow, prefect):
            server.wait()
        if passwords:
            make_accounts(worker.env, passwords[REVIEWER])
        do([sys.executable, "-m", "flows.deployment", str(CLONE)], worker.env)
        worker.start()
        show(mlflow_port, prefect_port, state, passwords)
        auth = worker.env.get("PREFECT_API_AUTH_STRING", "")
        keep_alive(all_services, Prefect(f"http://{HOST}:{prefect_port}/api", auth))
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        worker.stop()
        stop_flows(prefect.env["PREFECT_API_URL"])
        for server in (prefect, mlflow):
            server.stop()


def make_accounts(env: dict[str, str], password: str) -> None:
    """The trainer, as `env` names it, has an account on the MLflow server."""
    reviewer = {"MLFLOW_TRACKING_USERNAME": REVIEWER, "MLFLOW_TRACKING_PASSWORD": password}
    trainer = {"SPEECH_RBA_TRAINER_PASSWORD": env["MLFLOW_TRACKING_PASSWORD"]}
    do([sys.executable, "-m", "flows.accounts"], env | reviewer | trainer)


def do(command: list[str], env: dict[str, str]) -> None:
    """Holds when the command did it; where not, it has said why, and this process ends as it did."""
    if code := subprocess.run(command, env=env, check=False).returncode:
        sys.exit(code)


def check_port(port: int, option: str) -> None:
    """Holds when nobody listens there.

    Raises:
        UserError: somebody does; a server started now would die, and the other be taken for it.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST} cannot be used ({error.strerror}): stop what listens there, or choose another, "
            f"make up ARGS='{option} {port + 1}'"
        ) from error


def keep_alive(all_services: list[Service], prefect: Prefect) -> None:
    """Runs until a signal comes."""
    reap_at = time.monotonic()
    while True:
        for service in all_services:
            service.keep_alive()
        if time.monotonic() >= reap_at:
            reap_at = time.monotonic() + REAP_S
            prefect.try_to_reap()
        time.sleep(TICK_S)


def stop_flows(api: str) -> None:
    """No flow that reports to `api` lives: each stops its stages, which go on from their checkpoints next time."""
    ours = []
    for process in psutil.process_iter():
        try:
            env = process.environ()
        except psutil.Error:
            continue
        if "PREFECT__FLOW_RUN_ID" in env and env.get("PREFECT_API_URL") == api:
            ours.append(process)
    for process in ours:
        if process.is_running():
            process.terminate()
    for process in psutil.wait_procs(ours, timeout=STOP_S)[1]:
        process.kill()


def stop_now(*_: object) -> None:
    raise KeyboardInterrupt


def show(mlflow_port: int, prefect_port: int, state: Path, passwords: dict[str, str]) -> None:
    who = "with accounts" if passwords else f"no accounts: set {' and '.join(PASSWORDS.values())} for them"
    print(
        f"Prefect:  http://{HOST}:{prefect_port}/deployments   nightly: Run, or + Schedule\n"
        f"MLflow:   http://{HOST}:{mlflow_port}/#/models   the candidate, its gate and its scores\n"
        f"Logs:     {state}/logs   ({who})\n"
        "Stop:     Ctrl-C",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    options = parser.parse_args()
    try:
        check_project()
        supervise(options.mlflow_port, options.prefect_port, Path("work/servers").resolve())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
