"""Synthesis with the real teacher: deterministic, and written rounds are not written again."""

import json
from pathlib import Path

import pytest

from speech_rba.config import Params, load_params
from speech_rba.records import Row, read_jsonl
from speech_rba.stages import synthesize
from speech_rba.synthesis.filters import NearDuplicates

ROOT = Path(__file__).parents[2]


def small(seed: int) -> Params:
    params, tokens = load_params(ROOT / "params.yaml"), {"max_query_tokens": 16, "max_completion_tokens": 16}
    changes = {"seed": seed, "num_instructions": 1, "num_questions": 1, "batch_size": 8, **tokens}
    return params.model_copy(update={"synthesize": params.synthesize.model_copy(update=changes)})


def test_a_stopped_run_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/topics.txt").write_text("bees\ngold\n")
    monkeypatch.chdir(tmp_path)
    written, write_round = [], synthesize.write_round

    def counted(teacher, params, task, *rest):
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(task)
        return write_round(teacher, params, task, *rest)

    monkeypatch.setattr(synthesize, "write_round", counted)
    stop_at = None
    synthesize.run(small(1), Path("data"), Path("first"))
    rows, whole = read_jsonl(Path("first/rows.jsonl"), Row), list(written)
    assert [r.task for r in rows] == ["instruction", "question"]
    assert all(r.completion and r.messages[1].content == r.completion for r in rows)
    assert not list(Path("work/synthesize").iterdir())  # what is published is not gone on from
    written.clear()
    stop_at = len(whole) - 1
    with pytest.raises(KeyboardInterrupt):
        synthesize.run(small(1), Path("data"), Path("second"))
    assert not Path("second").exists()
    stop_at = None
    synthesize.run(small(1), Path("data"), Path("second"))
    assert written == whole  # no round twice
    assert Path("first/rows.jsonl").read_bytes() == Path("second/rows.jsonl").read_bytes()
    refused = json.loads(Path("second/report.json").read_text())["rejected"]
    assert sum(refused.values()) == len(Path("second/rejected.jsonl").read_text().splitlines())


def test_every_split_gets_its_share_and_a_text_stays_in_its_split():
    settings = small(1).synthesize.model_copy(update={"validation_share": 0.1, "test_share": 0.25})
    assert synthesize.quotas(settings, 34) == {"validation": 3, "test": 8, "train": 23}
    assert synthesize.quotas(settings, 6) == {"validation": 1, "test": 2, "train": 3}
    assert synthesize.quotas(settings, 0).total() == 0
    texts = [f"What is number {i}?" for i in range(2000)]
    splits = [synthesize.split_of(text, settings) for text in texts]
    assert splits == [synthesize.split_of(text.upper(), settings) for text in texts]
    shares = {split: splits.count(split) / 2000 for split in set(splits)}
    assert abs(shares["test"] - 0.25 * synthesize.ROOM) < 0.03
    assert abs(shares["validation"] - 0.1 * synthesize.ROOM) < 0.02


@pytest.mark.parametrize(
    ("round_trip", "reason"), [(0.9, None), (0.5, "round_trip"), (0, "round_trip"), (None, None)]
)
def test_a_translation_that_says_something_else_when_translated_back_is_refused(round_trip, reason):
    params = small(1)
    params = params.model_copy(
        update={"assets": params.assets.model_copy(update={"target_language": "German"})}
    )
    candidate = synthesize.Candidate(
        task="translation", prompt="Where is the train station?", prompt_finished=True, num_tokens=9,
        completion="Wo ist hier der Bahnhof?", completion_finished=True, round_trip=round_trip, instructions=[],
    )  # fmt: skip
    assert synthesize.fault(candidate, params, NearDuplicates(0.8)) == reason


def test_a_constrained_question_is_kept_where_its_answer_keeps_to_it(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/topics.txt").write_text("bees\ngold\nrain\nbread\n")
    short = {
        "name": "length_constraints:number_words",
        "arguments": {"num_words": 9, "relation": "less than"},
    }
    (tmp_path / "data/constraints.jsonl").write_text(
        json.dumps(short | {"says": "At most eight words about {topic}."})
    )
    monkeypatch.chdir(tmp_path)
    params = small(1)
    texts = {"num_instructions": 0, "num_questions": 0, "num_constrained": 2}
    params = params.model_copy(update={"synthesize": params.synthesize.model_copy(update=texts)})
    synthesize.run(params, Path("data"), Path("out"))
    rows = read_jsonl(Path("out/rows.jsonl"), Row)
    assert len(rows) == 2
    for row in rows:
        assert (
            row.task == "constrained"
            and row.prompt.endswith(".")
            and "At most eight words about" in row.prompt
        )
        assert [i.name for i in row.instructions] == ["length_constraints:number_words"]
        assert len(row.completion.split()) < 9
