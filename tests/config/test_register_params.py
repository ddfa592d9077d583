"""What MLflow or the last stage would refuse is refused when parameters are read."""

from pathlib import Path

import pytest
import yaml

from speech_rba.config import load_params
from speech_rba.errors import UserError
from speech_rba.registry.store import MlflowException, mlflow

ROOT = Path(__file__).parents[2]


def load(tmp_path, synthesize=None, **register):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["register"].update(register)
    values["synthesize"].update(synthesize or {})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return load_params(tmp_path / "params.yaml").register_


@pytest.mark.parametrize("name", ["a/b", "a:b", "", " ", ".", "..", "it's", "a b", "x" * 201])
def test_a_model_name_that_mlflow_or_its_filters_refuse_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"params\.yaml: register\.model_name"):
        load(tmp_path, model_name=name)


@pytest.mark.parametrize("name", ["modèle-2", "a.b_c", "7", "x" * 200])
def test_a_model_name_that_mlflow_accepts_is_valid(tmp_path, name):
    assert load(tmp_path, model_name=name).model_name == name
    mlflow.utils.validation._validate_model_name(f"{name}-candidates")
    mlflow.utils.validation._validate_experiment_name(name)


def test_mlflow_refuses_the_names_that_the_pattern_refuses():
    for name in ("a/b", "a:b", "", "."):
        with pytest.raises(MlflowException):
            mlflow.utils.validation._validate_model_name(name)


@pytest.mark.parametrize(
    ("rank_by", "message"),
    [
        ("accuracy", "with a suite of alignment, attributes, spoken_qa"),
        ("spoken_qa/all", "with a suite of alignment, attributes, spoken_qa"),
        ("spoken_qa/all/accuracy/", "with a suite of alignment, attributes, spoken_qa"),
        ("other/all/accuracy", "with a suite of alignment, attributes, spoken_qa"),
        ("spoken_qa/noisy/accuracy", "set its condition to one of all, degraded, babble, clean"),
        ("spoken_qa/text/accuracy", "set its condition to one of all, degraded, babble, clean"),
        ("spoken_qa/all/token_f1", "set its metric of spoken_qa to one of accuracy"),
        ("spoken_qa/all/unparsed", "set its metric of spoken_qa to one of accuracy"),  # less of it is better
        ("alignment/all/accuracy", "set its metric of alignment to one of token_f1"),
    ],
)
def test_a_score_that_does_not_exist_cannot_rank(tmp_path, rank_by, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, rank_by=rank_by)


def test_existing_scores_can_rank(tmp_path):
    for rank_by in ("spoken_qa/degraded/accuracy", "alignment/clean/token_f1", "spoken_qa/packet_loss/chrf"):
        assert load(tmp_path, rank_by=rank_by).rank_by == rank_by


def test_more_check_clips_than_test_rows_are_refused(tmp_path):
    few = {"num_instructions": 10, "num_questions": 30, "test_share": 0.1}
    assert load(tmp_path, few, num_check_clips=4).num_check_clips == 4
    with pytest.raises(
        UserError, match=r"num_check_clips is 5, and 40 rows with .*test_share 0.1 give 4 test"
    ):
        load(tmp_path, few, num_check_clips=5)


@pytest.mark.parametrize("limit", ["max_text_drop", "max_refusal_drop", "max_length_ratio", "max_wer_rise"])
def test_a_negative_or_missing_limit_is_refused(tmp_path, limit):
    limits = yaml.safe_load((ROOT / "params.yaml").read_text())["register"]["limits"]
    with pytest.raises(UserError, match=rf"register\.limits\.{limit}"):
        load(tmp_path, limits=limits | {limit: -0.1})
    with pytest.raises(UserError, match=rf"register\.limits\.{limit}: Field required"):
        load(tmp_path, limits={name: value for name, value in limits.items() if name != limit})
