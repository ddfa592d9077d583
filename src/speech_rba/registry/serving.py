"""The student as an MLflow model: recordings in, answers out.

MLflow stores this file with each version and runs it when the version is loaded (models from code). The input
is bytes and never a path, so that a server opens no file that a caller names.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from speech_rba.errors import UserError

if TYPE_CHECKING:
    from speech_rba.model.answering import AnswerResult

EMPTY = {"answer": "", "error": "", "transcript": "", "no_speech": ""}


class Student(PythonModel):
    def load_context(self, context) -> None:
        from speech_rba.model.answering import load_answerer

        bundle = Path(context.artifacts["bundle"])
        self.answer = load_answerer(bundle / "base", bundle / "adapter")

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """One row for each recording in the column `audio`, bytes of a file: its `answer`, its `error`, its
        `transcript`, and `no_speech`, the reason for which nothing was transcribed.

        What does not apply is empty: a recording that cannot be answered has an error and no answer.
        """
        from speech_rba.data.audio import read_audio

        rows, clips = [EMPTY] * len(model_input), {}
        for position, audio in enumerate(model_input["audio"]):
            try:
                clips[position] = read_audio(io.BytesIO(audio), f"recording {position + 1}")
            except UserError as unreadable:
                rows[position] = EMPTY | {"error": str(unreadable)}
        for position, row in zip(clips, self.answers(list(clips.values())), strict=True):
            error = row["error"] and f"recording {position + 1}: {row['error']}"
            rows[position] = row | {"error": error}
        return pd.DataFrame(rows, columns=list(EMPTY), dtype=object)

    def answers(self, clips: list[np.ndarray]) -> list[dict[str, str]]:
        """The row of each clip; one that cannot be answered stops no other."""
        if not clips:
            return []
        try:
            return [answered(result) for result in self.answer(clips)]
        except UserError as error:
            if len(clips) == 1:
                return [EMPTY | {"error": str(error)}]
        return [row for clip in clips for row in self.answers([clip])]


def answered(result: "AnswerResult") -> dict[str, str]:
    """The row of an answered recording."""
    transcript, no_speech = result.hypothesis or "", result.no_speech or ""
    return EMPTY | {"answer": result.response, "transcript": transcript, "no_speech": no_speech}


mlflow.models.set_model(Student())
