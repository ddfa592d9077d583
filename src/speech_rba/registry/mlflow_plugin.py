"""The entry points that MLflow loads (pyproject.toml): a local store that holds no absolute path.

MLflow alone writes the folder of a local store into its database, and reads `mlflow-artifacts:/...` only
through a server. With these two functions a local database holds the addresses that a server writes, and any
process of this environment resolves them beside the database. So mlruns/ may be renamed, moved or copied, and
a server and a local process read the same store. MLflow loads this module during its own import: hence the
imports inside the functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

PLACE = "mlflow-artifacts:/"


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> SqlAlchemyStore:
    """The store of runs in a sqlite file; new experiments keep their files below PLACE."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(store_uri, artifact_uri or PLACE)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """What reads and writes `mlflow-artifacts:/...`: the folder beside a sqlite file, else the server."""
    import mlflow
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    store_uri = tracking_uri or mlflow.get_tracking_uri()
    if not store_uri.startswith("sqlite:"):
        return MlflowArtifactsRepository(artifact_uri, tracking_uri, registry_uri)
    database = Path(store_uri.removeprefix("sqlite:///").partition("?")[0]).resolve()
    folder = database.parent / "artifacts" / artifact_uri.removeprefix(PLACE).lstrip("/")
    return LocalArtifactRepository(folder.as_uri(), tracking_uri, registry_uri)
