"""`mlflow server` over the project's store, with the options that follow.

MLflow starts uvicorn as a child in its own process group; the supervisor ends the group (flows/services.py).
"""

import sys

from mlflow.cli import cli

from speech_rba.registry.store import STORE, database

if __name__ == "__main__":
    store = ["--backend-store-uri", database()]
    store += ["--artifacts-destination", str((STORE / "artifacts").resolve())]
    cli([*sys.argv[1:], *store], prog_name="mlflow")
