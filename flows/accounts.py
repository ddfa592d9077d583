"""Users of an MLflow server with accounts: the trainer registers candidates, the reviewer promotes them.

The reviewer is the server's administrator and owns the model whose versions are champions; the trainer and
all others may read it. A second call sets the trainer's password again.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import mlflow.server
from mlflow.exceptions import MlflowException

from flows.servers import TRAINER
from speech_rba.config import read_yaml
from speech_rba.errors import UserError
from speech_rba.registry.store import connect
from speech_rba.registry.versions import candidates


def main() -> None:
    model_name = read_yaml(Path("params.yaml"))["register"]["model_name"]
    client, password = connect(model_name), os.environ["SPEECH_RBA_TRAINER_PASSWORD"]
    accounts = mlflow.server.get_app_client("basic-auth", tracking_uri=mlflow.get_tracking_uri())
    if not create(lambda: accounts.create_user(TRAINER, password)):
        accounts.update_user_password(TRAINER, password)
    create(lambda: client.create_registered_model(model_name))
    experiment = client.get_experiment_by_name(model_name)
    assert experiment is not None  # connect() creates it
    create(lambda: accounts.grant_user_permission(TRAINER, "experiment", experiment.experiment_id, "MANAGE"))
    name = candidates(model_name)
    if client.search_registered_models(f"name = '{name}'"):  # it was registered without accounts
        create(lambda: accounts.grant_user_permission(TRAINER, "registered_model", name, "MANAGE"))


def create(action: Callable[[], object]) -> bool:
    """True after `action` created its object; False where it exists already."""
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
