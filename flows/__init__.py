"""The pipeline as Prefect flows over DVC's stages; both read the environment below, which stages inherit."""

import os
from pathlib import Path

import speech_rba  # noqa: F401  it sets the environment of every process

HOME = Path(__file__).parents[1] / "work" / "prefect"
HOME.parent.mkdir(exist_ok=True)  # Prefect makes HOME but not its parent

for name, value in {
    "PREFECT_HOME": str(HOME),
    "PREFECT_LOGGING_COLORS": "false",  # it logs to files
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "GX_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(name, value)
