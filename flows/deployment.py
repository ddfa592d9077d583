"""The deployment `nightly/nightly` on the Prefect server that PREFECT_API_URL names: made once, then kept as it is.

Its schedules belong to the person who sets them in the UI; only its code and parameters follow the project.
"""

import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.nightly import nightly, prepare

POOL = "local"


def deploy(project: Path, clone: Path) -> None:
    """The server knows the work pool and the deployment, which runs in `clone`, one run at a time.

    A run that starts while another is at work waits for it.
    """
    prepare(project, clone)
    made = nightly.from_source(source=str(clone), entrypoint="flows/nightly.py:nightly").to_deployment(
        name=nightly.name,
        description=f"Runs in {clone} and commits dvc.lock on the branch `nightly`.",
        work_pool_name=POOL,
        job_variables={"working_dir": str(clone), "env": {"PYTHONPATH": f"{clone}/src:{clone}"}},
        concurrency_limit=ConcurrencyLimitConfig(limit=1),
    )
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        try:
            known = client.read_deployment_by_name(f"{nightly.name}/{nightly.name}")
        except ObjectNotFound:
            made.apply()
        else:  # to apply it again would delete its schedules
            schema = parameter_schema(nightly).model_dump(exclude_unset=True)
            client.update_deployment(known.id, DeploymentUpdate(parameter_openapi_schema=schema))


if __name__ == "__main__":
    deploy(Path.cwd(), Path(sys.argv[1]).resolve())
