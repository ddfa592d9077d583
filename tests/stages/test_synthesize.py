"""The synthesize stage: a stopped run continues, and constrained questions keep answers that follow the
constraint."""

import json
from pathlib import Path

import pytest

from speech_rba.config import Params, load_params
from speech_rba.errors import UserError
from speech_rba.records import Feedback, Row, read_jsonl, write_jsonl
from speech_rba.stages import synthesize
from speech_rba.synthesis import keep_rows
from speech_rba.synthesis.feedback import by_content, feedback_prompts
from speech_rba.synthesis.teacher import load_teacher
from speech_rba.synthesis.write_round import Candidate, Round, Sources, write_round

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")


def with_texts(**changes: int | str) -> Params:
    """Parameters with small batches and short answers, and no rows but those of `changes`."""
    none = {"num_instructions": 0, "num_questions": 0, "num_constrained": 0}
    small = {"seed": 1, "batch_size": 8, "max_query_tokens": 16, "max_completion_tokens": 16}
    synthesize_params = PARAMS.synthesize.model_copy(update=none | small | changes)
    return PARAMS.model_copy(update={"synthesize": synthesize_params})


@pytest.fixture(scope="module")
def teacher():
    return load_teacher(PARAMS.assets)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/topics.txt").write_text("bees\ngold\nrain\nbread\n")
    return tmp_path


def scripted_round(_teacher: None, _params: Params, _sources: Sources, current: Round) -> list[Candidate]:
    """Two candidates, of which the first has no answer."""
    words = f"the {current.task} in {current.number}"
    common = {"task": current.task, "prompt_finished": True, "completion_finished": True, "num_tokens": 9}
    return [
        Candidate(prompt=f"What is {words}?", completion="", instructions=[], **common),
        Candidate(prompt=f"Where is {words}?", completion=f"It is {words}.", instructions=[], **common),
    ]


def test_a_stopped_run_continues_to_the_same_rows_and_writes_no_round_twice(project, monkeypatch):
    rounds: list[tuple[str, int]] = []
    stop_at: int | None = None

    def counted_round(teacher, params, sources, current):
        if len(rounds) == stop_at:
            raise KeyboardInterrupt
        rounds.append((current.task, current.number))
        return scripted_round(teacher, params, sources, current)

    monkeypatch.setattr(keep_rows, "write_round", counted_round)
    monkeypatch.setattr(keep_rows, "load_teacher", lambda _assets: None)
    params = with_texts(num_instructions=2, num_questions=2)
    synthesize.run(params, Path("data"), Path("first"))
    rows, whole_run = read_jsonl(Path("first/rows.jsonl"), Row), list(rounds)
    assert [row.task for row in rows] == ["instruction"] * 2 + ["question"] * 2
    assert all(row.completion and row.messages[1].content == row.completion for row in rows)
    assert not list(Path("work/synthesize").iterdir()), "unfinished work is deleted when it is published"
    rounds.clear()
    stop_at = len(whole_run) - 1
    with pytest.raises(KeyboardInterrupt):
        synthesize.run(params, Path("data"), Path("second"))
    assert not Path("second").exists()
    stop_at = None
    synthesize.run(params, Path("data"), Path("second"))
    assert rounds == whole_run
    assert Path("first/rows.jsonl").read_bytes() == Path("second/rows.jsonl").read_bytes()
    reasons = json.loads(Path("second/report.json").read_text())["rejected"]
    assert sum(reasons.values()) == len(Path("second/rejected.jsonl").read_text().splitlines())
    assert reasons["no_completion"] > 0


def rated(transcript: str, system: str = "base", thumb: str | None = "up", name: str = "1") -> Feedback:
    answers = {"base": "It is."}
    return Feedback(
        id=name,
        time="2026-01-01T00:00:00+00:00",
        transcript=transcript,
        system=system,
        answer="It is.",
        answers=answers,
        thumb=thumb,
        audio=None,
    )


def test_rated_questions_become_prompts_that_the_teacher_answers(project, teacher, monkeypatch):
    monkeypatch.setattr(keep_rows, "load_teacher", lambda _assets: teacher)
    rows = [
        rated("What is the capital of France?"),
        rated("What is the capital of France?", thumb="down", name="2"),
        rated("The mail is 100 % late #now.", name="3"),  # no spoken query
        rated("Who wrote this book?", name="4"),
        rated("Who wrote this book?", thumb=None, name="4"),  # taken back
    ]
    write_jsonl(Path("feedback.jsonl"), rows)
    synthesize.run(with_texts(feedback=by_content(Path("feedback.jsonl"))), Path("data"), Path("out"))
    [row] = read_jsonl(Path("out/rows.jsonl"), Row)
    assert row.task == "feedback" and row.id.startswith("f-") and "Paris" in row.completion
    assert row.prompt == "What is the capital of France?"
    assert json.loads(Path("out/report.json").read_text())["rejected"] == {"not_speakable": 1}


def test_a_feedback_file_that_has_changed_is_refused_by_what_to_write(project):
    write_jsonl(Path("feedback.jsonl"), [rated("Why?")])
    named = by_content(Path("feedback.jsonl"))
    write_jsonl(Path("feedback.jsonl"), [rated("Why not?")])
    with pytest.raises(UserError, match=f"set synthesize.feedback to {by_content(Path('feedback.jsonl'))}"):
        feedback_prompts(named)
    Path("feedback.jsonl").unlink()
    with pytest.raises(UserError, match=r"feedback\.jsonl of synthesize\.feedback is missing"):
        feedback_prompts(named)


def test_the_teacher_writes_the_same_round_again(teacher):
    params, sources = with_texts(num_questions=1, batch_size=4), Sources(["bees", "gold"], [])
    first, second = Round("question", 0, params.synthesize), Round("question", 1, params.synthesize)
    candidates = write_round(teacher, params, sources, first)
    assert candidates == write_round(teacher, params, sources, first)
    assert len(candidates) == 4 and any(candidate.completion for candidate in candidates)
    assert first.seed != second.seed


def test_a_constrained_question_is_kept_where_its_answer_follows_the_constraint(
    project, teacher, monkeypatch
):
    monkeypatch.setattr(keep_rows, "load_teacher", lambda _assets: teacher)
    constraint = {
        "name": "length_constraints:number_words",
        "arguments": {"num_words": 9, "relation": "less than"},
        "says": "At most eight words about {topic}.",
    }
    (project / "data/constraints.jsonl").write_text(json.dumps(constraint))
    synthesize.run(with_texts(num_constrained=2), Path("data"), Path("out"))
    rows = read_jsonl(Path("out/rows.jsonl"), Row)
    assert len(rows) == 2
    for row in rows:
        assert row.task == "constrained"
        assert "At most eight words about" in row.prompt and row.prompt.endswith(".")
        assert [instruction.name for instruction in row.instructions] == ["length_constraints:number_words"]
        assert len(row.completion.split()) < 9


def test_the_texts_of_the_asr_adapter_have_their_own_seed_and_numbers():
    params = synthesize.for_purpose(PARAMS, "asr_adapter")
    assert params.synthesize.seed == PARAMS.asr_adapter.texts.seed != PARAMS.synthesize.seed
    assert params.synthesize.num_questions == PARAMS.asr_adapter.texts.num_questions
    assert params.synthesize.num_constrained == 0
    with pytest.raises(UserError, match="no purpose 'test'; allowed: alignment, asr_adapter"):
        synthesize.for_purpose(PARAMS, "test")
