"""params.yaml -> artifacts/base: the student with its projection at zero."""

from pathlib import Path

from speech_rba.model.audio_tower import load_audio_tower
from speech_rba.model.student import Student, StudentConfig
from speech_rba.params import Params
from speech_rba.stages import main, publish


def run(params: Params, out: Path) -> None:
    """The student's config and zero projection; its frozen parts are named, not copied."""
    assets = params.assets
    config = StudentConfig(
        language_model=assets.language_model,
        audio_tower=assets.audio_tower,
        audio_width=load_audio_tower(assets.audio_tower).model.config.d_model,
        system_prompt=assets.system_prompt,
        soft_top_k=params.base.top_k,
        soft_temperature=params.base.temperature,
    )
    with publish(out) as folder:
        Student(config).save_pretrained(folder)
    print(f"base student: {assets.audio_tower} hears, {assets.language_model} answers")


if __name__ == "__main__":
    main(run)
