"""params.yaml, artifacts/ears, artifacts/acoustics -> artifacts/base: the student before alignment."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from speech_rba.model.speech_llm import SpeechLlmConfig, SpeechLlmStudent
from speech_rba.model.student import untrained
from speech_rba.params import Params
from speech_rba.stages import main, publish


def run(params: Params, ears: Path, acoustics: Path, out: Path) -> None:
    """The student's config, projectors and ears; its frozen parts are named, not copied.

    Raises:
        UserError: the ears were trained for another audio tower.
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
    student = untrained(assets, settings, ears if settings.trained_ears else None, torch.float32)
    if settings.trained_acoustics:
        student.acoustic_projector.load_state_dict(load_file(acoustics / "model.safetensors"))
    with publish(out) as folder:
        student.save_pretrained(folder)
    print(f"base student: {assets.audio_tower} hears, {assets.language_model} answers")


if __name__ == "__main__":
    main(run)
