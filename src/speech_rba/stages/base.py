"""params.yaml, artifacts/ears -> artifacts/base: the student with its projection at zero."""

import json
from pathlib import Path

from speech_rba.model.audio_tower import load_audio_tower
from speech_rba.model.student import Student, StudentConfig
from speech_rba.params import Params
from speech_rba.stages import main, publish


def run(params: Params, ears: Path, out: Path) -> None:
    """The student's config, zero projection and ears; its frozen parts are named, not copied.

    Raises:
        ValueError: the ears were trained for another audio tower.
    """
    assets = params.assets
    config = StudentConfig(
        language_model=assets.language_model,
        audio_tower=assets.audio_tower,
        audio_width=load_audio_tower(assets.audio_tower, None).model.config.d_model,
        system_prompt=assets.system_prompt,
        soft_top_k=params.base.top_k,
        soft_temperature=params.base.temperature,
        min_doubt=params.base.min_doubt,
    )
    student = Student(config)
    if params.base.trained_ears:
        fit = json.loads((ears / "ears.json").read_text())["audio_tower"]
        if fit != assets.audio_tower:
            raise ValueError(
                f"{ears} was trained for {fit}, assets.audio_tower is {assets.audio_tower}: run `make ears`, "
                "or set base.trained_ears to false"
            )
        student.ears = ears
    with publish(out) as folder:
        student.save_pretrained(folder)
    print(f"base student: {assets.audio_tower} hears, {assets.language_model} answers")


if __name__ == "__main__":
    main(run)
