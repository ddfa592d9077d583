"""The deployment `nightly/nightly` on the Prefect server that PREFECT_API_URL names: made once, then kept.

Its schedules belong to the person who sets them in the UI; only where and how it runs follows the project.
"""

import os
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.nightly import nightly, prepare
from flows.pipeline import reach
from flows.supervisor import POOL
from speech_rba.errors import UserError


def deploy(project: Path, clone: Path, pool: str) -> None:
    """The server knows the work pool and the deployment, which runs in `clone`, one run at a time.

    A run that starts while another is at work waits for it.

    Raises:
        UserError: the server or git refuses.
    """
    reach()
    prepare(project, clone)
    where = {
        "description": f"Runs in {clone} and commits dvc.lock on the branch `nightly`.",
        "work_pool_name": pool,
        "job_variables": {"working_dir": str(clone), "env": {"PYTHONPATH": f"{clone}/src:{clone}"}},
    }
    made = nightly.from_source(source=str(clone), entrypoint="flows/nightly.py:nightly").to_deployment(
        name=nightly.name, concurrency_limit=ConcurrencyLimitConfig(limit=1), **where
    )
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        try:
            known = client.read_deployment_by_name(f"{nightly.name}/{nightly.name}")
        except ObjectNotFound:
            made.apply()
        else:  # to apply it again would delete its schedules
            schema = parameter_schema(nightly).model_dump(exclude_unset=True)
            where |= {"parameter_openapi_schema": schema, "pull_steps": [made.storage.to_pull_step()]}
            client.update_deployment(known.id, DeploymentUpdate(**where))


if __name__ == "__main__":
    try:
        deploy(Path.cwd(), Path(sys.argv[1]).resolve(), os.environ.get("SPEECH_RBA_POOL", POOL))
    except UserError as error:
        sys.exit(f"error: {error}")
