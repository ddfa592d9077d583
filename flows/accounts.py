"""Who may do what on an MLflow server with accounts: the trainer registers candidates, the reviewer promotes them.

The reviewer is the server's administrator and owns the model that champions are versions of; for the trainer, as for
everyone, it is there to read. Doing it again sets the trainer's password anew.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import mlflow.server
from mlflow.exceptions import MlflowException

from flows.supervisor import TRAINER
from speech_rba.config import read_yaml
from speech_rba.errors import UserError
from speech_rba.registry.store import connect
from speech_rba.registry.versions import candidates


def main() -> None:
    model_name = read_yaml(Path("params.yaml"))["register"]["model_name"]
    client, password = connect(model_name), os.environ["SPEECH_RBA_TRAINER_PASSWORD"]
    accounts = mlflow.server.get_app_client("basic-auth", tracking_uri=mlflow.get_tracking_uri())
    if not made(lambda: accounts.create_user(TRAINER, password)):
        accounts.update_user_password(TRAINER, password)
    made(lambda: client.create_registered_model(model_name))
    experiment = client.get_experiment_by_name(model_name).experiment_id
    made(lambda: accounts.grant_user_permission(TRAINER, "experiment", experiment, "MANAGE"))
    name = candidates(model_name)
    if client.search_registered_models(f"name = '{name}'"):  # registered before there were accounts
        made(lambda: accounts.grant_user_permission(TRAINER, "registered_model", name, "MANAGE"))


def made(action: Callable[[], object]) -> bool:
    """Whether `action` made what it makes; False where that was there already."""
    try:
        action()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


if __name__ == "__main__":
    try:
        main()
    except MlflowException as error:
        sys.exit(f"error: MLflow at {mlflow.get_tracking_uri()}: {' '.join(str(error).split())}")
    except UserError as error:
        sys.exit(f"error: {error}")
