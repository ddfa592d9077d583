"""What MLflow, Prefect and the worker are started with: commands, environments, accounts."""

import os
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.services import Service
from speech_rba.errors import UserError

HOST = "127.0.0.1"
REVIEWER, TRAINER, OPERATOR = "reviewer", "trainer", "operator"
PASSWORDS = {user: f"SPEECH_RBA_{user.upper()}_PASSWORD" for user in (REVIEWER, OPERATOR)}
POOL = "local"  # the work pool of this machine's worker
CREDENTIALS_S = 60  # MLflow remembers a password for so long; hashing it takes half a second a request
MLFLOW_ENV = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three times the memory, and nothing here uses it
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
PREFECT_ENV = {  # seconds between two looks for rare events: an idle server does little else
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT60S",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",
}


@dataclass
class Setup:
    """Where the servers listen, the folder of their state, and the passwords, empty without accounts."""

    mlflow_port: int
    prefect_port: int
    state: Path
    passwords: dict[str, str]

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def prefect_url(self) -> str:
        return f"http://{HOST}:{self.prefect_port}"


def read_passwords() -> dict[str, str]:
    """The password of each user, from the environment; empty for servers without accounts.

    Raises:
        UserError: only one is given, or both are the same.
    """
    passwords = {user: os.environ.get(name, "") for user, name in PASSWORDS.items()}
    if not any(passwords.values()):
        return {}
    if not all(passwords.values()) or len(set(passwords.values())) == 1:
        raise UserError(f"accounts need two different passwords: set {' and '.join(PASSWORDS.values())}")
    return passwords


def services(setup: Setup) -> tuple[Service, Service, Service]:
    """MLflow, Prefect and the worker, in the order in which they start."""
    env = client_env(setup)
    return mlflow_service(setup, env), prefect_service(setup, env), worker_service(setup, env)


def client_env(setup: Setup) -> dict[str, str]:
    """The environment of the worker and its stages, with the credentials of trainer and operator."""
    env = {"PREFECT_WORKER_QUERY_SECONDS": "15", "PREFECT_WORKER_PREFETCH_SECONDS": "20"} | os.environ
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": setup.mlflow_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(setup.state / "prefect"),
        "PREFECT_API_URL": f"{setup.prefect_url}/api",
    }
    if setup.passwords:
        for name in PASSWORDS.values():
            env.pop(name)  # every stage could read it
        env["MLFLOW_TRACKING_USERNAME"] = TRAINER
        env["MLFLOW_TRACKING_PASSWORD"] = secrets.token_urlsafe()
        env["PREFECT_API_AUTH_STRING"] = f"{OPERATOR}:{setup.passwords[OPERATOR]}"
    return env


def mlflow_service(setup: Setup, env: dict[str, str]) -> Service:
    command = [sys.executable, "-m", "flows.mlflow_server", "server", "--host", HOST]
    command += ["--port", str(setup.mlflow_port), "--workers", "1"]
    command += ["--uvicorn-opts", "--timeout-graceful-shutdown 5"]
    if setup.passwords:
        command += ["--app-name", "basic-auth"]
    return Service(
        "MLflow",
        command,
        env | MLFLOW_ENV | mlflow_accounts(setup),
        f"{setup.mlflow_url}/health",
        setup.state / "logs/mlflow.log",
        parent_death=signal.SIGTERM,  # which it passes on to its uvicorn; SIGKILL would leave uvicorn behind
    )


def mlflow_accounts(setup: Setup) -> dict[str, str]:
    """MLflow's environment for accounts, whose file this writes; empty without accounts."""
    if not setup.passwords:
        return {}
    config = setup.state / "mlflow_auth.ini"
    folder = str(setup.state).replace("%", "%%")  # MLflow reads this file with interpolation
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/mlflow_auth.db\n"
        f"auth_cache_ttl_seconds = {CREDENTIALS_S}\n"
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": REVIEWER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": setup.passwords[REVIEWER],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
    }


def prefect_service(setup: Setup, env: dict[str, str]) -> Service:
    server_env = env | PREFECT_ENV
    server_env["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = setup.prefect_url
    server_env["PREFECT_UI_API_URL"] = f"{setup.prefect_url}/api"
    if setup.passwords:
        server_env["PREFECT_SERVER_API_AUTH_STRING"] = env["PREFECT_API_AUTH_STRING"]
    return Service(
        "Prefect",
        prefect_command(setup.prefect_port),
        server_env,
        f"{setup.prefect_url}/api/health",
        setup.state / "logs/prefect.log",
    )


def prefect_command(port: int) -> list[str]:
    """The command of Prefect's server; `prefect server start` is a second process with all of the CLI."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parents[1])]
    command += ["--factory", "flows.prefect_server:create_app", "--log-level", "warning"]
    return [*command, "--host", HOST, "--port", str(port)]


def worker_service(setup: Setup, env: dict[str, str]) -> Service:
    return Service("worker", worker_command(POOL), env, "", setup.state / "logs/worker.log")


def worker_command(pool: str) -> list[str]:
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
