"""Who may do what on an MLflow server with accounts: the trainer registers candidates, the reviewer promotes them.

The reviewer is the server's administrator and owns the model that champions are versions of; for the trainer, as for
everyone, it is there to read. Doing it again sets the trainer's password anew.
"""

import os

import mlflow
import mlflow.server
import yaml
from mlflow.exceptions import MlflowException

from flows.supervisor import TRAINER


def main() -> None:
    with open("params.yaml", encoding="utf-8") as file:
        model_name = yaml.safe_load(file)["register"]["model_name"]
    client, password = mlflow.MlflowClient(), os.environ["SPEECH_RBA_TRAINER_PASSWORD"]
    accounts = mlflow.server.get_app_client("basic-auth", tracking_uri=mlflow.get_tracking_uri())
    try:
        accounts.create_user(TRAINER, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        accounts.update_user_password(TRAINER, password)
    if not client.search_registered_models(f"name = '{model_name}'"):
        client.create_registered_model(model_name)
    if not client.get_experiment_by_name(model_name):
        accounts.grant_user_permission(TRAINER, "experiment", client.create_experiment(model_name), "MANAGE")


if __name__ == "__main__":
    main()
