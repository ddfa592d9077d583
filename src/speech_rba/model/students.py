"""Loads a saved student of either class."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

from speech_rba.model.speech_llm import SpeechLlmConfig, SpeechLlmStudent
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.student import Student, StudentConfig

for config, student in ((StudentConfig, Student), (SpeechLlmConfig, SpeechLlmStudent)):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, student)


def load_student(folder: Path, dtype: torch.dtype = torch.float32) -> SpeechStudent:
    """The student saved in `folder`, its language model in `dtype`.

    Raises:
        UserError: another version saved it.
    """
    return AutoModel.from_pretrained(folder, dtype=dtype)
