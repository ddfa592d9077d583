"""What `mlflow models serve` runs takes recordings in base64 and gives the columns of the table."""

import base64

import mlflow
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from toy import NAME


def test_mlflows_server_answers_recordings_in_base64(candidate):
    app = scoring_server.init(mlflow.pyfunc.load_model(f"models:/{NAME}-candidates/1"))
    recording = base64.b64encode(b"RIFF").decode()
    request = {"dataframe_split": {"columns": ["audio"], "data": [[recording]]}}
    reply = TestClient(app).post("/invocations", json=request)
    assert reply.json() == {"predictions": [{"answer": "a4", "error": ""}]}, reply.text
