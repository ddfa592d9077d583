"""`make up`: MLflow, Prefect and a worker on this machine, kept alive until one signal stops them all.

The servers listen on loopback alone. Two passwords in the environment switch accounts on: MLflow then has the
users `reviewer` and `trainer` (the worker, which registers candidates and cannot promote them), Prefect has
`operator`.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from flows.reaper import REAP_S, Reaper, stop_flows
from flows.servers import HOST, PASSWORDS, POOL, REVIEWER, Setup, read_passwords, services
from flows.services import Service
from flows.stages import check_project
from speech_rba.errors import UserError

CLONE = Path("work/nightly")
TICK_S = 1


def supervise(setup: Setup) -> None:
    """Starts the services and keeps them alive until SIGINT or SIGTERM; at the end none lives.

    Raises:
        UserError: a port is in use or a service did not start.
    """
    check_port(setup.mlflow_port, "--mlflow-port")
    check_port(setup.prefect_port, "--prefect-port")
    for folder in (setup.state, Path("mlruns")):
        folder.mkdir(parents=True, exist_ok=True)
    mlflow, prefect, worker = services(setup)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, raise_interrupt)
    try:
        start(mlflow, prefect, worker, setup)
        auth = worker.env.get("PREFECT_API_AUTH_STRING", "")
        keep_alive((mlflow, prefect, worker), Reaper(worker.env["PREFECT_API_URL"], auth, POOL))
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        worker.stop()
        stop_flows(worker.env["PREFECT_API_URL"])
        for server in (prefect, mlflow):
            server.stop()


def start(mlflow: Service, prefect: Service, worker: Service, setup: Setup) -> None:
    """Both servers answer, accounts and deployment exist, the worker runs."""
    started = [(server, server.start()) for server in (mlflow, prefect)]
    for server, process in started:
        server.wait(process)
    if setup.passwords:
        make_accounts(worker.env, setup.passwords[REVIEWER])
    run_or_exit([sys.executable, "-m", "flows.deployment", str(CLONE)], worker.env)
    worker.start()
    print_addresses(setup)


def make_accounts(env: dict[str, str], password: str) -> None:
    """The trainer, as `env` names it, has an account on the MLflow server."""
    reviewer = {"MLFLOW_TRACKING_USERNAME": REVIEWER, "MLFLOW_TRACKING_PASSWORD": password}
    trainer = {"SPEECH_RBA_TRAINER_PASSWORD": env["MLFLOW_TRACKING_PASSWORD"]}
    run_or_exit([sys.executable, "-m", "flows.accounts"], env | reviewer | trainer)


def run_or_exit(command: list[str], env: dict[str, str]) -> None:
    """The command succeeded; a command that fails prints why, and this process exits with its code."""
    if code := subprocess.run(command, env=env, check=False).returncode:
        sys.exit(code)


def check_port(port: int, option: str) -> None:
    """Holds when nobody listens there.

    Raises:
        UserError: another process does; a server started now would die, and the other be taken for it.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST} cannot be used ({error.strerror}): stop what listens there, "
            f"or choose another, make up ARGS='{option} {port + 1}'"
        ) from error


def keep_alive(supervised: Iterable[Service], reaper: Reaper) -> None:
    """Runs until a signal comes."""
    reap_at = time.monotonic()
    while True:
        for service in supervised:
            service.keep_alive()
        if time.monotonic() >= reap_at:
            reap_at = time.monotonic() + REAP_S
            reaper.try_to_reap()
        time.sleep(TICK_S)


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def print_addresses(setup: Setup) -> None:
    no_accounts = f"no accounts: set {' and '.join(PASSWORDS.values())} for them"
    print(
        f"Prefect:  {setup.prefect_url}/deployments   nightly: Run, or + Schedule\n"
        f"MLflow:   {setup.mlflow_url}/#/models   the candidate, its gate and its scores\n"
        f"Logs:     {setup.state}/logs   ({'with accounts' if setup.passwords else no_accounts})\n"
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
        state = Path("work/servers").resolve()
        supervise(Setup(options.mlflow_port, options.prefect_port, state, read_passwords()))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
