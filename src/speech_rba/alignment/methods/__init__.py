"""The alignment methods, one a file: methods/NAME.py holds the class `Method` of the method NAME of
align.methods.

Its parameters are the group align.NAME of params.yaml, typed in config/. Nothing else names a method.
"""

from importlib import import_module
from typing import Any, Protocol

from transformers import Trainer

from speech_rba.alignment.trainer import Job, Phase


class Method(Protocol):
    """The two hooks of a method."""

    def phases(self, job: Job) -> list[Phase]:
        """The trainings of the method, in order.

        Raises:
            UserError: the job's examples are too few for the method.
        """

    def build_trainer(self, job: Job, arguments: dict[str, Any]) -> Trainer:
        """The trainer of the method's phase, from the arguments that every trainer shares."""


def load_method(name: str) -> Method:
    """The method of the file `name`.py of this folder."""
    return import_module(f"{__name__}.{name}").Method()
