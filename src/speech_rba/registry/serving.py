"""The student as an MLflow model: recordings in, answers out. MLflow stores this file and runs it (models from code).

The input is bytes and never a path, so that a server opens no file that a caller names.
"""

import io
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from speech_rba.errors import UserError


class Student(mlflow.pyfunc.PythonModel):
    def load_context(self, context) -> None:
        from speech_rba.model.answering import load_answerer

        bundle = Path(context.artifacts["bundle"])
        self.answer = load_answerer(bundle / "base", bundle / "adapter")

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """A row for each recording of column `audio`, the bytes of an audio file: its `answer` and its `error`,
        which is empty but where the recording cannot be answered; then the answer is empty."""
        from speech_rba.data.audio import read_audio

        rows, clips = [("", "")] * len(model_input), {}
        for place, audio in enumerate(model_input["audio"]):
            try:
                clips[place] = read_audio(io.BytesIO(audio), f"recording {place + 1}")
            except UserError as error:
                rows[place] = ("", str(error))
        for place, (answer, error) in zip(clips, self.answers(list(clips.values())), strict=True):
            rows[place] = (answer, error and f"recording {place + 1}: {error}")
        return pd.DataFrame(rows, columns=["answer", "error"], dtype=object)

    def answers(self, clips: list[np.ndarray]) -> list[tuple[str, str]]:
        """(answer, error) of each clip; one that cannot be answered, as a very long one, holds up no other."""
        if not clips:
            return []
        try:
            return [(result.response, "") for result in self.answer(clips)]
        except UserError as error:
            if len(clips) == 1:
                return [("", str(error))]
        return [answer for clip in clips for answer in self.answers([clip])]


mlflow.models.set_model(Student())
