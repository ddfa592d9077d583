"""params.yaml, artifacts/asr_adapter, artifacts/attributes -> artifacts/base: the student before alignment."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from speech_rba.config import Params
from speech_rba.model.speech_llm import SpeechLlmConfig, SpeechLlmStudent
from speech_rba.model.student import build_student
from speech_rba.stages import main, publish


def run(params: Params, asr_adapter: Path, attributes: Path, out: Path) -> None:
    """The student's config, projectors and asr_adapter; its frozen parts are named, not copied.

    Raises:
        UserError: the asr_adapter were trained for another audio tower.
    """
    assets, settings = params.assets, params.base
    if assets.speech_llm:
        limits = (settings.max_transcript_tokens, settings.max_completion_tokens)
        config = SpeechLlmConfig(assets.speech_llm, assets.audio_tower, assets.system_prompt, *limits)
        student = SpeechLlmStudent(config)
        with publish(out) as folder:
            student.save_pretrained(folder)
        print(f"base student: {assets.speech_llm} hears and answers, {assets.audio_tower} judges")
        return
    student = build_student(assets, settings, asr_adapter if settings.asr_adapter else None, torch.float32)
    if settings.attributes:
        student.attribute_head.load_state_dict(load_file(attributes / "model.safetensors"))
    with publish(out) as folder:
        student.save_pretrained(folder)
    print(f"base student: {assets.audio_tower} hears, {assets.language_model} answers")


if __name__ == "__main__":
    main(run)
