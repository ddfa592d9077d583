"""The deployment `nightly/nightly` on the Prefect server that PREFECT_API_URL names: created once, then kept.

Its schedules belong to the person who sets them in the UI; where and how it runs follows the project.
"""

import os
import sys
from pathlib import Path
from typing import Any, cast

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner.storage import LocalStorage
from prefect.utilities.callables import parameter_schema

from flows.nightly import nightly, prepare
from flows.pipeline import check_server
from flows.servers import POOL
from speech_rba.errors import UserError


def deploy(project: Path, clone: Path, pool: str) -> None:
    """The server knows the work pool and the deployment, which runs in `clone`, one run at a time.

    A run that starts while another is at work waits for it.

    Raises:
        UserError: the server or git refuses.
    """
    check_server()
    prepare(project, clone)
    description = f"Runs in {clone} and commits dvc.lock on the branch `nightly`."
    job_variables = {"working_dir": str(clone), "env": {"PYTHONPATH": f"{clone}/src:{clone}"}}
    in_clone = cast(Flow, nightly.from_source(source=str(clone), entrypoint="flows/nightly.py:nightly"))
    deployment = cast(
        RunnerDeployment,
        in_clone.to_deployment(
            name=nightly.name,
            concurrency_limit=ConcurrencyLimitConfig(limit=1),
            description=description,
            work_pool_name=pool,
            job_variables=job_variables,
        ),
    )
    with get_client(sync_client=True) as client:
        make_pool(client, pool)
        create_or_update(client, deployment)


def make_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))


def create_or_update(client: SyncPrefectClient, deployment: RunnerDeployment) -> None:
    """The deployment exists as given, with the schedules that it had, which `apply` would delete."""
    try:
        known = client.read_deployment_by_name(f"{nightly.name}/{nightly.name}")
    except ObjectNotFound:
        deployment.apply()
        return
    schema: dict[str, Any] = parameter_schema(nightly).model_dump(exclude_unset=True)
    storage = cast(LocalStorage, deployment.storage)
    update = DeploymentUpdate(
        description=deployment.description,
        work_pool_name=deployment.work_pool_name,
        job_variables=deployment.job_variables,
        parameter_openapi_schema=schema,
        pull_steps=[storage.to_pull_step()],
    )
    client.update_deployment(known.id, update)


if __name__ == "__main__":
    try:
        deploy(Path.cwd(), Path(sys.argv[1]).resolve(), os.environ.get("SPEECH_RBA_POOL", POOL))
    except UserError as error:
        sys.exit(f"error: {error}")
