"""The files of a stored version: unchanged, complete, and with the answers that were stored."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from toy import NAME, ROOT, aliases, make_version, promote, stored

from flows import nightly
from speech_rba.errors import UserError
from speech_rba.registry import bundle, review


@pytest.fixture
def version(candidate):
    return candidate.get_model_version(f"{NAME}-candidates", "1")


@pytest.mark.parametrize(
    ("file", "tag"),
    [
        ("adapter/adapter_model.safetensors", "adapter_sha256"),
        ("base/model.safetensors", "base_sha256"),
        ("gate.json", "gate_sha256"),
        ("check/answers.json", "model_sha256"),
    ],
)
def test_a_changed_file_refuses_promotion(candidate, version, file, tag):
    path = stored(version) / bundle.BUNDLE / file
    path.write_text("x")
    with pytest.raises(UserError, match=tag):
        promote()
    path.unlink()
    with pytest.raises(UserError, match=tag):
        promote()
    assert "champion" not in aliases(candidate)


def test_a_missing_file_is_named_where_it_is_read(version):
    scores = stored(version) / bundle.BUNDLE / "scores.json"
    scores.write_text("{")
    broken = r"scores\.json stored with toy-candidates version 1 is broken: register"
    with pytest.raises(UserError, match=broken):
        review.compare(NAME)
    scores.unlink()
    missing = r"toy-candidates/1/artifacts/bundle/scores\.json are not in the store"
    for command in (review.compare, review.waiting):
        with pytest.raises(UserError, match=missing):
            command(NAME)
    shutil.rmtree(stored(version))
    with pytest.raises(UserError, match=r"toy-candidates/1 are not in the store"):
        promote()


def test_a_failed_gate_refuses_promotion_even_with_force(store):
    make_version(passed=False)
    with pytest.raises(UserError, match="did not pass its gate"):
        promote(None, True, "a reason")


def test_a_version_that_answers_differently_after_a_reload_is_not_registered(store):
    with pytest.raises(UserError, match=r"'a4' to one\.wav instead of 'a5'"):
        make_version(check_answer="a5")
    assert store.search_registered_models() == []
    [run] = store.search_runs([store.get_experiment_by_name(NAME).experiment_id])
    assert run.info.status == "FAILED"


def test_a_nightly_run_starts_from_the_champions_adapter(challenger):
    params = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("model_name: speech-rba", f"model_name: {NAME}"))

    def start_from():
        nightly.start_from_champion()
        return yaml.safe_load(Path("params.yaml").read_text())["align"]["start_from"]

    for adapter in ("a", "b"):
        folder, _, content = start_from().partition("#")
        assert content == hashlib.sha256(adapter.encode()).hexdigest()[:16]
        assert (Path(folder) / "adapter_model.safetensors").read_text() == adapter
        promote()
    shutil.rmtree(folder)
    copy = challenger.get_model_version(f"{NAME}-candidates", "2")
    (stored(copy) / bundle.BUNDLE / "adapter/adapter_model.safetensors").write_text("x")
    with pytest.raises(UserError, match="was changed"):
        nightly.start_from_champion()
    assert not Path(folder).exists()


def test_a_nightly_run_without_a_champion_starts_from_no_adapter(candidate):
    params = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("model_name: speech-rba", f"model_name: {NAME}"))
    nightly.start_from_champion()
    assert yaml.safe_load(Path("params.yaml").read_text())["align"]["start_from"] is None


def test_a_digest_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = bundle.digest(tmp_path)
    (tmp_path / "registered_model_meta").write_text("written by a reader")
    assert bundle.digest(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = bundle.digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, bundle.digest(tmp_path)}) == 3
