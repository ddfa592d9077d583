"""The student as an MLflow model: recordings in, answers out. MLflow stores this file and runs it (models from code).

The input is bytes and never a path, so that a server opens no file that a caller names.
"""

import io
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd


class Student(mlflow.pyfunc.PythonModel):
    def load_context(self, context) -> None:
        from speech_rba.model.answer import load_answerer

        bundle = Path(context.artifacts["bundle"])
        self.answer = load_answerer(bundle / "base", bundle / "adapter")

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """One row a recording of column `audio`, the bytes of an audio file: its `answer`, or the `error` that says why
        it has none. Of the two texts one is empty where the other is not, but for a student that says nothing.
        """
        results = [self.read(audio, number) for number, audio in enumerate(model_input["audio"], 1)]
        clips = [clip for clip, error in results if not error]
        answers = iter(self.answer(clips) if clips else [])
        rows = [("", error) if error else (next(answers).response, "") for _, error in results]
        return pd.DataFrame(rows, columns=["answer", "error"], dtype=object)

    def read(self, audio: bytes, number: int) -> tuple[np.ndarray | None, str]:
        """The samples of a recording; without them why it cannot be read, by its number in the request."""
        from speech_rba.data.audio import read_audio

        file = io.BytesIO(audio)
        try:
            return read_audio(file), ""
        except ValueError as error:  # also numpy's, of a header that lies
            return None, f"recording {number}: {str(error).replace(str(file), 'it')}"


mlflow.models.set_model(Student())
