"""The answers of all systems to one recording: cascade, base, and every method that was trained."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speech_rba.model.answering import NOTHING_HEARD, AlignedStudent
from speech_rba.model.audio_tower import AudioTower, load_audio_tower, transcribe
from speech_rba.server.student import Prompt, build_prompt, recognized


@dataclass(frozen=True)
class Systems:
    """The student without an adapter, the unadapted Whisper of the cascade, and the methods' adapters."""

    aligned: AlignedStudent
    judge: AudioTower
    adapters: dict[str, Path]


def load_systems(base: Path, methods: Path) -> Systems:
    """The systems of a run's folders."""
    aligned = AlignedStudent(base, None, torch.float32)
    aligned.student.get_ready()
    judge = load_audio_tower(aligned.student.config.audio_tower, None)
    adapters = {file.parent.name: file.parent for file in sorted(methods.glob("*/adapter_config.json"))}
    return Systems(aligned, judge, adapters)


def answers(systems: Systems, clip: np.ndarray) -> Iterator[dict]:
    """What the student transcribes of a clip, then the answer of each system.

    `seconds` are those from the recording to the whole answer. A method whose adapter takes no part gives
    base's answer, and its `shared` is true.
    """
    began = time.perf_counter()
    prompt = build_prompt(systems.aligned.student, [clip])
    read_s = time.perf_counter() - began
    yield recognized(prompt)
    if prompt.hypothesis == "":
        return
    yield cascade(systems, clip)
    base, base_s = timed(systems.aligned, prompt)
    yield {"system": "base", "answer": base, "seconds": read_s + base_s, "shared": False}
    for method, adapter in systems.adapters.items():
        yield adapted(systems.aligned, method, adapter, prompt, (base, base_s), read_s)


def cascade(systems: Systems, clip: np.ndarray) -> dict:
    """The answer of the language model to the unadapted Whisper's transcript."""
    began = time.perf_counter()
    student = systems.aligned.student
    limits = {"top_k": 1, "max_tokens": student.config.max_transcript_tokens}
    [hypothesis] = transcribe(systems.judge, [clip], **limits, dtype=torch.float32)
    transcript = systems.judge.text(hypothesis.token_ids.tolist())
    [written] = student.text_prompts([transcript])
    answer = timed(systems.aligned, Prompt(written, 0))[0] if transcript else NOTHING_HEARD
    seconds = time.perf_counter() - began
    result = {"system": "cascade", "answer": answer, "seconds": seconds, "shared": False}
    return result | {"transcript": transcript}


def adapted(
    aligned: AlignedStudent,
    method: str,
    adapter: Path,
    prompt: Prompt,
    of_base: tuple[str, float],
    read_s: float,
) -> dict:
    """The answer of a method, given base's answer and its seconds."""
    threshold = aligned.student.config.adapter_min_asr_uncertainty
    shared = prompt.prompt.asr_uncertainty < threshold
    if shared:
        answer, seconds = of_base
    else:
        aligned.use_adapter(adapter)
        try:
            answer, seconds = timed(aligned, prompt)
        finally:
            aligned.use_adapter(None)
    return {"system": method, "answer": answer, "seconds": read_s + seconds, "shared": shared}


def timed(aligned: AlignedStudent, prompt: Prompt) -> tuple[str, float]:
    """The answer to a prompt and the seconds that it took."""
    began = time.perf_counter()
    [answer], _ = aligned.respond([prompt.prompt])
    return answer, time.perf_counter() - began
