"""What a reviewer reads of candidates and champions."""

from pathlib import Path

import pytest
from toy import NAME, make_by_hand, make_version, promote, stored

from speech_rba.errors import UserError
from speech_rba.registry import review
from speech_rba.registry.versions import fetched_version


def test_candidates_newer_than_the_champion_wait(candidate):
    make_version("b", 0.6, reward_hacking="no_spread")
    rows = [(row["version"], row["reward_hacking"]) for row in review.waiting(NAME)]
    assert rows == [("2", "no_spread"), ("1", "none")]
    promote("1")
    [row] = review.waiting(NAME)
    assert (row["version"], row["method"], row["alignment/all/accuracy"]) == ("2", "rba", 0.6)
    promote("2", True, "it is better")
    assert review.waiting(NAME) == []


def test_versions_are_compared_by_alias(challenger):
    promote()
    rows = review.compare(NAME)
    assert [row["alias"] for row in rows] == ["candidate", "champion", "previous"]
    assert [row["alignment/accuracy"] for row in rows] == [0.6, 0.6, 0.5]


def test_a_version_made_by_hand_is_marked(champion):
    make_by_hand(champion, f"{NAME}-candidates")
    champion.set_registered_model_alias(f"{NAME}-candidates", "candidate", "2")
    [row] = review.waiting(NAME)
    assert (row["version"], row["method"]) == ("2", "made by hand in MLflow: cannot be promoted")
    row = {"alias": "candidate", "version": "2", "method": "made by hand in MLflow"}
    assert review.compare(NAME)[0] == row
    champion.set_registered_model_alias(NAME, "champion", make_by_hand(champion, NAME).version)
    assert [row["version"] for row in review.waiting(NAME)] == ["2", "1"]


def test_a_candidate_that_was_deleted_in_mlflow_is_marked(challenger):
    challenger.delete_model_version(f"{NAME}-candidates", "2")
    method = review.compare(NAME)[0]["method"]
    assert method.startswith("the newest version of toy-candidates was deleted")
    assert review.waiting(NAME) == [{"version": "newest", "method": "deleted in MLflow"}]
    challenger.delete_model_version(f"{NAME}-candidates", "1")
    challenger.delete_registered_model(f"{NAME}-candidates")
    challenger.delete_registered_model(NAME)
    Path("artifacts/register").mkdir(parents=True)
    Path("artifacts/register/registration.json").write_text("{}")
    gone = "toy-candidates was deleted in MLflow, or registered on another server"
    for command in (promote, lambda: review.compare(NAME), lambda: review.waiting(NAME)):
        with pytest.raises(UserError, match=gone):
            command()


def test_without_versions_nothing_waits(store):
    with pytest.raises(UserError, match="nothing is registered yet: run `make run`"):
        review.compare(NAME)
    assert review.waiting(NAME) == []


def test_a_version_is_fetched_with_its_files_unchanged(challenger):
    for which, name, adapter in (
        ("champion", "toy", "a"),
        ("candidate", "toy-candidates", "b"),
        ("1", "toy-candidates", "a"),
    ):
        with fetched_version(NAME, which) as (version, bundle):
            assert version.name == name
            assert (bundle / "adapter/adapter_model.safetensors").read_text() == adapter
            assert (bundle / "base/config.json").exists()
    adapter_file = stored(version) / "artifacts/bundle/adapter/adapter_model.safetensors"
    adapter_file.write_text("x")
    with (
        pytest.raises(UserError, match="was changed after it was registered"),
        fetched_version(NAME, "1"),
    ):
        pass
