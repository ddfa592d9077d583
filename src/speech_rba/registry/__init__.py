"""The record of training: MLflow runs, registered students, and the log of promotions.

The register stage makes versions of the model `NAME-candidates`; the alias `candidate` names the newest. A
reviewer copies one to the model `NAME`, whose alias `champion` names the version in use and `previous` the
champion before it. Two models, because a server with accounts can then let a trainer write the first and not
the second.
"""

import os

# MLflow reads these when it is imported, so they are set before any module of this package imports it.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one bar for each of many small files
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # of one silent connection, not of an upload
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)
