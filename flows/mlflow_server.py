"""`mlflow server` over this folder's store as one process: it becomes its uvicorn instead of starting it.

As MLflow starts it, uvicorn outlives a killed parent, keeps the port, and a new server cannot bind to it.
"""

import os
import sys

import mlflow.server
from mlflow.cli import cli

from speech_rba.registry.store import STORE, database


def become(command: list[str], extra_env: dict[str, str], **_: object) -> None:
    os.execve(command[0], command, os.environ | extra_env)


if __name__ == "__main__":
    mlflow.server._exec_cmd = become  # private: the pinned version has it, and the supervisor's tests need it
    places = [
        "--backend-store-uri",
        database(),
        "--artifacts-destination",
        str((STORE / "artifacts").resolve()),
    ]
    cli([*sys.argv[1:], *places], prog_name="mlflow")
