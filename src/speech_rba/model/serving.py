"""The student as an MLflow model: recordings in, answers out. MLflow stores this file and runs it (models from code).

The input is bytes and never a path, so that a server opens no file that a caller names.
"""

import io
from pathlib import Path

import mlflow
import pandas as pd


class Student(mlflow.pyfunc.PythonModel):
    def load_context(self, context) -> None:
        from speech_rba.model.answer import load_answerer

        bundle = Path(context.artifacts["bundle"])
        self.answer = load_answerer(bundle / "base", bundle / "adapter")

    def predict(self, context, model_input: pd.DataFrame, params=None) -> list[str]:
        """The answer to each recording of column `audio`, the bytes of a WAV or FLAC file."""
        from speech_rba.data.audio import read_audio

        return [result.response for result in self.answer([read_audio(io.BytesIO(b)) for b in model_input["audio"]])]


mlflow.models.set_model(Student())
