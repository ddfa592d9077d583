"""params.yaml: every key is known, typed and needed."""

from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from speech_rba.config import apply_overlay, load_params, read_yaml
from speech_rba.config.yaml_file import leaves
from speech_rba.errors import UserError

ROOT = Path(__file__).parents[2]


def changed(tmp_path, change) -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(values)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_parameters_of_the_project_are_valid():
    assert load_params(ROOT / "params.yaml").align.rba.num_generations >= 2


def test_a_repository_of_the_hub_needs_a_revision(tmp_path):
    load_params(changed(tmp_path, lambda v: v["assets"].update(embedder="org/other@1a2b")))
    with pytest.raises(UserError, match=r"assets.embedder: .*or OWNER/NAME@REVISION \(got 'org/other'\)"):
        load_params(changed(tmp_path, lambda v: v["assets"].update(embedder="org/other")))


@pytest.mark.parametrize("name", ["alignment", "a", "Spoken", "spoken-qa", "spoken/qa", "../qa", "1qa", ""])
def test_the_name_of_a_suite_can_be_part_of_an_id(tmp_path, name):
    with pytest.raises(UserError, match="two or more lower-case letters"):
        load_params(
            changed(tmp_path, lambda v: v["evaluate"]["suites"].update({name: "data/suites/spoken_qa"}))
        )


def test_a_range_has_two_ordered_bounds_and_no_number_is_infinite(tmp_path):
    for wrong, message in (
        ([2.0, 1.0], r"put the lower bound first: \[1.0, 2.0\]"),
        ([1.0], "at least 2"),
        ([1.0, 2.0, 3.0], "at most 2"),
    ):
        with pytest.raises(UserError, match=f"voice.rate: .*{message}"):
            load_params(changed(tmp_path, lambda v, wrong=wrong: v["voice"].update(rate=wrong)))
    with pytest.raises(UserError, match=r"voice.conditions.hum.snr_db: .*put the lower bound first"):
        load_params(changed(tmp_path, lambda v: v["voice"]["conditions"]["hum"].update(snr_db=[2.0, 1.0])))
    with pytest.raises(UserError, match=r"voice.max_duration_s: .*finite"):
        load_params(changed(tmp_path, lambda v: v["voice"].update(max_duration_s=float("inf"))))


def test_most_rows_are_for_training(tmp_path):
    with pytest.raises(UserError, match=r"validation_share and test_share are 0.7 together"):
        load_params(changed(tmp_path, lambda v: v["synthesize"].update(validation_share=0.3, test_share=0.4)))


def test_a_typo_a_wrong_type_and_a_missing_key_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"voice\.sede"):
        load_params(changed(tmp_path, lambda v: v["voice"].update(sede=1)))
    with pytest.raises(ValueError, match=r"align.sft.learning_rate.*got 'fast'"):
        load_params(changed(tmp_path, lambda v: v["align"]["sft"].update(learning_rate="fast")))
    with pytest.raises(ValueError, match=r"gate\.min_train_clips"):
        load_params(changed(tmp_path, lambda v: v["gate"].pop("min_train_clips")))


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_overlay_applies_and_has_its_values(tmp_path, overlay):
    path = changed(tmp_path, lambda v: None)
    apply_overlay(overlay, path)
    after = load_params(path).model_dump(by_alias=True)
    for name, value in leaves(read_yaml(overlay)).items():
        assert reduce(getitem, name.split("."), after) == value, name


def test_an_unknown_key_in_an_overlay_is_named(tmp_path):
    path = changed(tmp_path, lambda v: None)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("align: {sft: {max_stepz: 1}}")
    with pytest.raises(ValueError, match=r"unknown parameter align.sft.max_stepz"):
        apply_overlay(overlay, path)


def test_the_adapters_texts_and_the_runs_texts_have_different_seeds(tmp_path):
    seed = load_params(ROOT / "params.yaml").asr_adapter.texts.seed
    same = changed(tmp_path, lambda v: v["synthesize"].update(seed=seed))
    with pytest.raises(
        ValueError, match=r"params.yaml: synthesize.seed and asr_adapter.texts.seed are equal"
    ):
        load_params(same)


def test_without_alternatives_there_is_no_asr_uncertainty(tmp_path):
    with pytest.raises(ValueError, match=r"with top_k 1 the ASR uncertainty is always 0"):
        load_params(changed(tmp_path, lambda v: v["base"].update(top_k=1)))


def test_another_teacher_gives_no_reward_by_the_students_weights(tmp_path):
    with pytest.raises(ValueError, match=r"set align.rba.reward_weights.teacher_pmi to 0"):
        load_params(changed(tmp_path, lambda v: v["assets"].update(teacher="org/other@1a2b")))


def test_a_speech_llm_has_no_asr_adapter(tmp_path):
    with pytest.raises(
        ValueError, match=r"to false, and base.min_asr_uncertainty and adapter_min_asr_uncertainty to 0"
    ):
        load_params(
            changed(tmp_path, lambda v: (v["assets"].update(speech_llm="org/any@1a2b"), reward_nothing(v)))
        )


def reward_nothing(values: dict) -> None:
    values["align"]["rba"]["reward_weights"]["teacher_pmi"] = 0.0


def translates(values: dict, **texts) -> None:
    values["assets"]["target_language"] = "German"
    values["synthesize"].update({"num_instructions": 0, "num_questions": 0, "num_translations": 90} | texts)
    values["base"]["attributes"] = False


def test_a_student_either_answers_or_translates(tmp_path):
    load_params(changed(tmp_path, translates))
    with pytest.raises(ValueError, match=r"every row is a translation"):
        load_params(changed(tmp_path, lambda v: translates(v, num_questions=1)))
    with pytest.raises(ValueError, match=r"num_translations needs assets.target_language"):
        load_params(changed(tmp_path, lambda v: v["synthesize"].update(num_translations=1)))
    with pytest.raises(ValueError, match=r"attributes to false"):
        load_params(changed(tmp_path, lambda v: (translates(v), v["base"].update(attributes=True))))
