"""The share of each split, the split of a text, and the reasons for which a candidate is rejected."""

from pathlib import Path

import pytest

from speech_rba.config import load_params
from speech_rba.synthesis.filters import NearDuplicates
from speech_rba.synthesis.keep_rows import fault
from speech_rba.synthesis.quotas import ROOM, quotas, split_of
from speech_rba.synthesis.write_round import Candidate

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
SETTINGS = PARAMS.synthesize.model_copy(update={"validation_share": 0.1, "test_share": 0.25})


def test_every_split_gets_its_share_and_of_three_rows_at_least_one():
    assert quotas(SETTINGS, 34) == {"validation": 3, "test": 8, "train": 23}
    assert quotas(SETTINGS, 6) == {"validation": 1, "test": 2, "train": 3}
    assert quotas(SETTINGS, 0).total() == 0


def test_the_split_depends_on_the_text_alone():
    texts = [f"What is number {i}?" for i in range(2000)]
    splits = [split_of(text, SETTINGS) for text in texts]
    assert splits == [split_of(text.upper(), SETTINGS) for text in texts]
    shares = {split: splits.count(split) / 2000 for split in set(splits)}
    assert abs(shares["test"] - 0.25 * ROOM) < 0.03
    assert abs(shares["validation"] - 0.1 * ROOM) < 0.02


@pytest.mark.parametrize(
    ("round_trip", "reason"), [(0.9, None), (0.5, "round_trip"), (0, "round_trip"), (None, None)]
)
def test_a_translation_that_changes_the_meaning_is_rejected(round_trip, reason):
    assets = PARAMS.assets.model_copy(update={"target_language": "German"})
    candidate = Candidate(
        task="translation",
        prompt="Where is the train station?",
        prompt_finished=True,
        completion="Wo ist hier der Bahnhof?",
        completion_finished=True,
        num_tokens=9,
        round_trip=round_trip,
        instructions=[],
    )
    assert fault(candidate, PARAMS.model_copy(update={"assets": assets}), NearDuplicates(0.8)) == reason
