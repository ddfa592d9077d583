"""Promotion and rollback: what is compared, what refuses a candidate, and what the audit log holds."""

from pathlib import Path

import pytest
from toy import NAME, aliases, answers, audit, make_base, make_by_hand, make_version, promote

from speech_rba.errors import UserError
from speech_rba.registry import promotion, store, versions


def interrupt(*_):
    raise KeyboardInterrupt


def test_promoting_and_rolling_back_twice_is_the_same_as_once(challenger):
    assert (audit()[0]["from"], audit()[0]["to"], audit()[0]["action"]) == (None, "1", "promote")
    second = promote()
    assert promote() == second
    assert aliases(challenger) == {"candidate": "2", "champion": "2", "previous": "1"}
    back = promotion.rollback(NAME, "it mumbles")
    assert promotion.rollback(NAME, "again") == back
    assert aliases(challenger) == {"candidate": "2", "champion": "1", "previous": "1"}
    assert [(r["action"], r["from"], r["to"]) for r in audit()] == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("rollback", "2", "1"),
    ]


def test_a_promotion_that_was_killed_is_completed_by_the_next(challenger, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(promotion, "set_champion", interrupt)
        promote("2")
    assert aliases(challenger) == {"candidate": "2", "champion": "1", "previous": "1"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.getpass, "getuser", interrupt)
        promote("2")
    assert aliases(challenger)["champion"] == "2"
    assert len(audit()) == 1
    promote("2")
    assert aliases(challenger) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert [(r["from"], r["to"]) for r in audit()] == [(None, "1"), ("1", "2")]


def test_a_failed_reward_hacking_check_refuses_promotion_without_force(store):
    make_version("a", reward_hacking="length_drift, repetition")
    with pytest.raises(UserError, match="reward hacking in training: length_drift, repetition; look"):
        promote()
    assert aliases(store) == {"candidate": "1"}
    assert promote(None, True, "long answers are intended")["to"] == "1"


def test_a_significantly_worse_candidate_needs_force_and_force_needs_a_reason(champion):
    make_version("b", 0.0)
    worse = r"0\.0000, the champion 0\.5000 on the same 20 clips of 20 rows: -0\.5"
    with pytest.raises(UserError, match=worse):
        promote()
    with pytest.raises(UserError, match="needs a reason"):
        promote(None, True)
    assert aliases(champion)["champion"] == "1"
    forced = promote(None, True, "the test set changed")
    assert (forced["reason"], forced["forced"]) == ("the test set changed", ["alignment/all/accuracy"])
    assert aliases(champion)["champion"] == "2"


def test_a_lower_score_that_is_not_significant_passes(champion):
    make_version("b", 0.45)  # one of 20 rows
    record = promote()
    assert record["to"] == "2" and record["forced"] == []
    score = "alignment/all/accuracy: 0.4500, the champion 0.5000 on the same 20 clips"
    assert record["checks"][1].startswith(score)


def test_the_error_lists_every_failed_check_with_its_limit(store):
    make_version("a", answered=answers(18))
    promote()
    worse = answers(2, num_text_right=18, words=2, hypothesis="cats park")
    make_version("b", answered=worse, reward_hacking="repetition")
    with pytest.raises(UserError) as refused:
        promote()
    first, *lines = str(refused.value).splitlines()
    assert first.startswith("candidate 2 is not promoted")
    assert [line.split(": ")[0].strip() for line in lines] == [
        "reward hacking in training",
        "alignment/all/accuracy",
        "text ability (alignment/text/accuracy)",
        "length (words an answer)",
        "word error rate",
    ]
    assert "0.9000, the champion 1.0000: lower by 0.1000; at most 0.05" in lines[2]
    assert "a ratio of 2.00; at most 1.5" in lines[3] and "higher by 0.5000; at most 0.02" in lines[4]
    assert aliases(store)["champion"] == "1"


def test_versions_without_comparable_answers_need_force(store):
    make_version("a", answered="none")
    promote()
    make_version("b")
    with pytest.raises(UserError, match="answers: toy version 1 has none stored"):
        promote()
    promote(None, True, "the first with answers")
    make_version("c", answered=answers(20, prompt="another text"))
    with pytest.raises(UserError, match=r"accuracy: 0 common test rows are too few to compare; at least 20"):
        promote()


def test_a_candidate_on_another_base_is_compared_and_the_base_is_reported(champion):
    make_version("b", 0.6, base="other weights")
    assert "base: differs from the champion's: more than the adapter changed" in promote()["checks"]


def test_a_version_made_by_hand_is_not_promoted(champion):
    make_by_hand(champion, f"{NAME}-candidates")
    champion.set_registered_model_alias(f"{NAME}-candidates", "candidate", "2")
    untagged = "toy-candidates version 2 was not made by the register stage, since it has no"
    with pytest.raises(UserError, match=untagged):
        promote()
    champion.set_registered_model_alias(NAME, "champion", make_by_hand(champion, NAME).version)
    with pytest.raises(UserError, match="champion: toy version 2 was made by hand in MLflow"):
        promote("1")
    with pytest.raises(UserError, match="toy version 2 was not made by the register stage"):
        versions.fetch_champion(NAME, Path("work/champions"))


def test_promotion_names_what_was_deleted_in_mlflow(challenger):
    promote("1")
    challenger.delete_model_version(f"{NAME}-candidates", "2")
    newest = "newest version of toy-candidates was deleted in MLflow; left: 1; name one"
    with pytest.raises(UserError, match=newest):
        promote()
    challenger.delete_model_version(NAME, "1")
    with pytest.raises(UserError, match="champion: deleted in MLflow, or its alias"):
        promote("1")
    challenger.delete_model_version(f"{NAME}-candidates", "1")
    with pytest.raises(UserError, match="all versions of toy-candidates were deleted in MLflow: register"):
        promote()


def test_without_versions_there_is_nothing_to_promote_or_to_roll_back_to(store):
    with pytest.raises(UserError, match="nothing is registered yet: run `make run`"):
        promote()
    with pytest.raises(UserError, match="has no version 7: it has none"):
        promote("7")
    with pytest.raises(UserError, match="no previous"):
        promotion.rollback(NAME, "")


def test_the_champions_adapter_is_not_fetched_for_another_base(store):
    make_version("a", prompt="Answer in Latin.")
    promote()
    folder = Path("work/champions")
    assert versions.fetch_champion(NAME, folder) == folder / "1"  # there is no base yet
    make_base(Path("artifacts/base"), prompt="Answer in Latin.")
    assert versions.fetch_champion(NAME, folder) == folder / "1"
    make_base(Path("artifacts/base"), prompt="Be brief.")
    other_prompt = r"another base: system_prompt \(Answer in Latin\., here Be brief\.\)"
    with pytest.raises(UserError, match=other_prompt):
        versions.fetch_champion(NAME, folder)
    make_base(Path("artifacts/base"), "other weights", "Answer in Latin.")
    with pytest.raises(UserError, match=r"another base: weights"):
        versions.fetch_champion(NAME, folder)
