"""A candidate against the champion: what counts as the same item, and what each check allows."""

from pathlib import Path

import pytest

from speech_rba.config import load_params
from speech_rba.records import Answer
from speech_rba.registry.non_regression import non_regression

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
LIMITS = PARAMS.register_.limits
NAMES = ["rank", "text", "safety", "length", "wer"]


def answer(number, condition="clean", **changed):
    fields = {"suite": "qa", "row_id": f"r{number}", "clip_id": f"c{number}", "system": "rba", "voice": "v"}
    fields |= {"heldout_voice": False, "snr_db": None, "judge_hypothesis": "", "response": "two words"}
    fields |= {"metrics": {"accuracy": 1.0}, "prompt": "cats bark", "hypothesis": "cats bark"}
    return Answer(**fields | {"condition": condition} | changed)


def read(number, **changed):
    return answer(number, "text", clip_id="", hypothesis=None, **changed)


def version(num=20, **changed):
    return [answer(i, **changed) for i in range(num)] + [read(i) for i in range(num)]


def checks(candidate, champion, rank_by="qa/all/accuracy"):
    results = non_regression(candidate, champion, rank_by, LIMITS, PARAMS.evaluate)
    return dict(zip(NAMES, results, strict=True))


def failed(candidate, champion, rank_by="qa/all/accuracy"):
    return [name for name, check in checks(candidate, champion, rank_by).items() if not check.passed]


def test_equal_answers_pass_and_a_metric_of_neither_version_is_not_measured():
    results = checks(version(), version())
    assert all(check.passed for check in results.values())
    assert str(results["safety"]) == "safety (share refused): not measured, neither version has it"


@pytest.mark.parametrize(
    "changed",
    [{"prompt": "another"}, {"clip_id": "z"}, {"row_id": "z"}, {"suite": "other"}, {"split": "validation"},
     {"condition": "hum"}],
)  # fmt: skip
def test_other_items_are_not_compared(changed):
    results = checks(version(**changed), version())
    assert results["rank"].finding == "0 common test rows are too few to compare; at least 20"
    assert not results["rank"].passed and not results["wer"].passed
    assert "not measured, no common item: the candidate has" in results["length"].finding


def test_the_minimum_counts_rows_and_not_clips():
    def clips(num_rows):
        spoken = [answer(i, clip_id=f"{i}-{j}") for i in range(num_rows) for j in range(9)]
        return spoken + [read(i) for i in range(num_rows)]

    assert failed(clips(19), clips(19)) == ["rank"] and failed(clips(20), clips(20)) == []


def test_a_difference_of_rank_by_counts_where_its_interval_is_below_0():
    def right(num):
        return [answer(i, metrics={"accuracy": float(i < num)}) for i in range(20)] + [
            read(i) for i in range(20)
        ]

    assert failed(right(17), right(20)) == []  # 3 of 20 rows: the interval reaches 0
    assert failed(right(14), right(20)) == ["rank"]  # 6 of 20 rows: -0.30, it ends at -0.10
    assert failed(right(20), right(14)) == []


def test_clips_of_one_row_are_one_item():
    # 20 rows of 10 clips, 3 rows wrong: 30 of 200 clips alone would be significant
    def right(num):
        clips = [
            answer(i, clip_id=f"{i}-{j}", metrics={"accuracy": float(i < num)})
            for i in range(20)
            for j in range(10)
        ]
        return clips + [read(i) for i in range(20)]

    assert failed(right(17), right(20)) == []


def test_degraded_means_every_condition_but_clean():
    def right(in_clean, in_hum):
        clean = [answer(i, metrics={"accuracy": in_clean}) for i in range(20)]
        hum = [answer(i, "hum", clip_id=f"h{i}", metrics={"accuracy": in_hum}) for i in range(20)]
        return clean + hum + [read(i) for i in range(20)]

    worse_in_hum = right(1.0, 0.0), right(1.0, 1.0)
    for condition, expected in (("clean", []), ("hum", ["rank"]), ("degraded", ["rank"]), ("all", ["rank"])):
        assert failed(*worse_in_hum, f"qa/{condition}/accuracy") == expected


def test_text_ability_may_fall_by_its_limit_and_no_more():
    def reads(num):
        return [answer(i) for i in range(20)] + [
            read(i, metrics={"accuracy": float(i < num)}) for i in range(20)
        ]

    assert failed(reads(19), reads(20)) == []  # 0.05
    assert failed(reads(18), reads(20)) == ["text"]  # 0.10
    assert failed(reads(20), reads(18)) == []
    assert failed([answer(i) for i in range(20)], reads(20)) == ["text"]


def test_refusals_may_fall_by_their_limit_and_no_more():
    def refuses(num):
        return version() + [answer(i, suite="harm", metrics={"refused": float(i < num)}) for i in range(20)]

    assert failed(refuses(19), refuses(20)) == []
    results = checks(refuses(18), refuses(20))["safety"]
    assert not results.passed
    assert results.finding == "0.9000, the champion 1.0000: lower by 0.1000; at most 0.05 (n 20)"
    assert failed(version(), refuses(20)) == ["safety"]


@pytest.mark.parametrize(
    ("ours", "theirs", "wrong"),
    [(3, 2, []), (4, 2, ["length"]), (2, 4, ["length"]), (0, 2, ["length"]), (0, 0, [])],
)
def test_answers_may_be_longer_or_shorter_by_a_ratio(ours, theirs, wrong):
    assert failed(version(response="word " * ours), version(response="word " * theirs)) == wrong


def test_transcripts_may_have_more_word_errors_up_to_a_limit():
    def transcribes(num_wrong):
        hypotheses = ["cats park" if i < num_wrong else "cats bark" for i in range(50)]
        return [answer(i, hypothesis=h) for i, h in enumerate(hypotheses)] + [read(i) for i in range(50)]

    assert failed(transcribes(2), transcribes(0)) == []  # 2 of 100 words
    results = checks(transcribes(3), transcribes(0))["wer"]
    assert not results.passed
    assert results.finding == "0.0300, the champion 0.0000: higher by 0.0300; at most 0.02 (n 50)"
    assert failed(version(hypothesis=None), version(hypothesis=None)) == []  # a student that writes none down
