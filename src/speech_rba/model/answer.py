"""Spoken questions in, written answers out: what `talk`, the registry and its check use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speech_rba.model.student import Student

MAX_NEW_TOKENS = 64
MAX_HEARD_TOKENS = 96


@dataclass(frozen=True)
class AnswerResult:
    heard: str
    response: str


def load_answerer(base: Path, adapter: Path | None) -> Callable[[list[np.ndarray]], list[AnswerResult]]:
    """A function that answers clips (float32, 16 kHz mono, at most 30 s), greedily.

    It computes in float32 everywhere, so that a version answers on one processor as on another.
    """
    student = load_student(base, adapter, torch.float32)

    def answer(clips: list[np.ndarray]) -> list[AnswerResult]:
        prompts, heard = student.listen(clips, MAX_HEARD_TOKENS)
        ids = student.answer(
            prompts, max_new_tokens=MAX_NEW_TOKENS, temperature=0.0, top_p=1.0, seed=0, batch_size=len(clips)
        )
        return [
            AnswerResult(h, student.tokenizer.decode(i, skip_special_tokens=True))
            for h, i in zip(heard, ids, strict=True)
        ]

    return answer


def load_student(base: Path, adapter: Path | None, dtype: torch.dtype) -> Student:
    """The student in `base`, with the adapter's weights merged into it if there is one."""
    student = Student.from_pretrained(base, dtype=dtype)
    if adapter is None:
        return student
    from peft import PeftModel

    return PeftModel.from_pretrained(student, str(adapter)).merge_and_unload().eval()
