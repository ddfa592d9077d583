"""Synthesis with the real teacher: deterministic, and written rounds are not written again."""

import json
from pathlib import Path

import pytest
import yaml

from speech_rba.params import Params
from speech_rba.records import Row, read_jsonl
from speech_rba.stages import synthesize
from speech_rba.synthesis.filters import NearDuplicates

ROOT = Path(__file__).parents[2]


def small(seed: int) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["synthesize"].update(
        seed=seed, num_instructions=1, num_questions=1, batch_size=8, max_query_tokens=16, max_completion_tokens=16
    )
    return Params.model_validate(values)


def test_the_same_seed_gives_the_same_rows_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/topics.txt").write_text("bees\ngold\n")
    monkeypatch.chdir(tmp_path)
    synthesize.run(small(1), Path("data"), Path("first"))
    rows = read_jsonl(Path("first/rows.jsonl"), Row)
    assert [r.task for r in rows] == ["instruction", "question"]
    assert all(r.completion and r.messages[1].content == r.completion for r in rows)
    rounds = sorted(Path("work/synthesize").rglob("*.jsonl"))
    rounds[-1].unlink()  # as if killed before the last round was written
    kept = {path: path.stat().st_mtime_ns for path in rounds[:-1]}
    synthesize.run(small(1), Path("data"), Path("second"))
    assert Path("first/rows.jsonl").read_bytes() == Path("second/rows.jsonl").read_bytes()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    refused = json.loads(Path("second/report.json").read_text())["rejected"]
    assert sum(refused.values()) == len(Path("second/rejected.jsonl").read_text().splitlines())


@pytest.mark.parametrize(("round_trip", "reason"), [(0.9, None), (0.5, "round_trip"), (0, "round_trip"), (None, None)])
def test_a_translation_that_says_something_else_when_translated_back_is_refused(round_trip, reason):
    params = small(1)
    params = params.model_copy(update={"assets": params.assets.model_copy(update={"target_language": "German"})})
    candidate = synthesize.Candidate(
        task="translation", prompt="Where is the train station?", prompt_finished=True, num_tokens=9,
        completion="Wo ist hier der Bahnhof?", completion_finished=True, round_trip=round_trip, instructions=[],
    )  # fmt: skip
    assert synthesize.fault(candidate, params, NearDuplicates(0.8)) == reason


def test_a_constrained_question_is_kept_where_its_answer_keeps_to_it(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/topics.txt").write_text("bees\ngold\nrain\nbread\n")
    short = {"name": "length_constraints:number_words", "arguments": {"num_words": 9, "relation": "less than"}}
    (tmp_path / "data/constraints.jsonl").write_text(json.dumps(short | {"says": "At most eight words about {topic}."}))
    monkeypatch.chdir(tmp_path)
    params = small(1)
    texts = {"num_instructions": 0, "num_questions": 0, "num_constrained": 2}
    params = params.model_copy(update={"synthesize": params.synthesize.model_copy(update=texts)})
    synthesize.run(params, Path("data"), Path("out"))
    rows = read_jsonl(Path("out/rows.jsonl"), Row)
    assert len(rows) == 2
    for row in rows:
        assert row.task == "constrained" and row.prompt.endswith(".") and "At most eight words about" in row.prompt
        assert [i.name for i in row.instructions] == ["length_constraints:number_words"]
        assert len(row.completion.split()) < 9
