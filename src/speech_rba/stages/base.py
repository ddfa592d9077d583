"""params.yaml, artifacts/asr_adapter, artifacts/attributes -> artifacts/base: the student before
alignment."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from speech_rba.config import Params
from speech_rba.model.speech_llm import SpeechLlmConfig, SpeechLlmStudent
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.student import build_student
from speech_rba.stages import main, publish


def run(params: Params, asr_adapter: Path, attributes: Path, out: Path) -> None:
    """The student's config, projectors and ASR adapter; its frozen parts are named, not copied.

    Raises:
        UserError: the ASR adapter was trained for another audio tower.
    """
    student = (
        speech_llm(params)
        if params.assets.speech_llm
        else soft_token_student(params, asr_adapter, attributes)
    )
    with publish(out) as folder:
        student.save_pretrained(folder)
    audio_tower, answering = (
        params.assets.audio_tower,
        params.assets.speech_llm or params.assets.language_model,
    )
    print(f"base student: {answering}; audio tower {audio_tower}")


def speech_llm(params: Params) -> SpeechStudent:
    """The speech LLM of assets.speech_llm."""
    assets, settings = params.assets, params.base
    limits = (settings.max_transcript_tokens, settings.max_completion_tokens)
    return SpeechLlmStudent(
        SpeechLlmConfig(assets.speech_llm, assets.audio_tower, assets.system_prompt, *limits)
    )


def soft_token_student(params: Params, asr_adapter: Path, attributes: Path) -> SpeechStudent:
    """The default student, with the parts that params.base names."""
    settings = params.base
    adapter = asr_adapter if settings.asr_adapter else None
    student = build_student(params.assets, settings, adapter, torch.float32)
    if settings.attributes:
        student.attribute_head.load_state_dict(load_file(attributes / "model.safetensors"))
    return student


if __name__ == "__main__":
    main(run)
