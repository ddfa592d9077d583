"""The suite stage with the real engines: it voices questions, degrades recordings and lists the rows it
refuses."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.config import Params, load_params
from speech_rba.errors import UserError
from speech_rba.records import Clip, Question, RefusedRow, read_jsonl, write_jsonl
from speech_rba.stages import suite
from speech_rba.synthesis import record_clips
from speech_rba.synthesis.conditions import SOUND, TRAINED

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record_clips, "process_pool", lambda: nullcontext(map))  # to load the engines once
    (tmp_path / "data").mkdir()
    (tmp_path / "data/topics.txt").write_text("lions\nrain\nbread\n")
    (tmp_path / "quiz").mkdir()
    return tmp_path


def few(num: int) -> Params:
    return PARAMS.model_copy(update={"suite": PARAMS.suite.model_copy(update={"max_questions": num})})


def quiz(num: int) -> list[Question]:
    return [Question(id=f"q{i}", prompt=f"What is two plus {i}?", answers=[str(2 + i)]) for i in range(num)]


def run(params: Params) -> tuple[dict[str, Clip], dict]:
    suite.run(params, "quiz", Path("quiz"), Path("data"), Path("out"))
    clips = {clip.id: clip for clip in read_jsonl(Path("out/manifest.jsonl"), Clip)}
    return clips, json.loads(Path("out/report.json").read_text())


def test_written_questions_are_voiced_for_validation_and_test(project):
    write_jsonl(Path("quiz/questions.jsonl"), quiz(4))
    clips, report = run(few(3))  # the first three; of these the first is for validation
    assert (report["num_questions"], report["num_refused"]) == (3, 0)
    assert [q.id for q in read_jsonl(Path("out/questions.jsonl"), Question)] == ["q0", "q1", "q2"]
    assert len(clips) == 3 * 2
    of = {row_id: [c for c in clips.values() if c.row_id == row_id] for row_id in ("q0", "q1", "q2")}
    assert {c.split for c in of["q0"]} == {"validation"} and {c.split for c in of["q1"] + of["q2"]} == {
        "test"
    }
    assert all(c.voice in PARAMS.voice.heldout_voices for c in of["q2"])
    assert {c.condition for c in of["q0"]} - {"clean"} <= set(TRAINED)
    assert all(
        c.suite == "quiz" and soundfile.info(f"out/{c.path}").duration == c.duration_s for c in clips.values()
    )


def test_recordings_are_for_the_test_split_and_bad_rows_are_reported(project, capsys):
    tone = 0.1 * np.sin(np.arange(16_000) / 10) * (np.arange(16_000) % 4000 > 2000)
    for name in ("1", "2"):
        soundfile.write(f"quiz/{name}.wav", tone, 16_000)
    table = "file\tquestion\tanswer\tspeaker\n1.wav\tWhy?\tso\tann\n2.wav\tWho?\tme\n3.wav\tNo?\tno\n"
    Path("quiz/quiz.tsv").write_text(table)
    clips, report = run(PARAMS)
    assert report["num_questions"] == 2 and report["num_refused"] == 1
    assert {clip.split for clip in clips.values()} == {"test"}
    assert {clip.engine for clip in clips.values()} == {"recorded"}
    assert [clip.voice for clip in clips.values()] == ["ann"] * 3 + ["recorded"] * 3
    conditions = [clip.condition for clip in clips.values()]
    assert conditions == ["clean", *SOUND[:2], "clean", *SOUND[2:4]]
    assert np.allclose(soundfile.read("out/" + clips["quiz-00000-clean"].path)[0], tone, atol=1e-3)
    [refused] = read_jsonl(Path("out/refused.jsonl"), RefusedRow)
    assert (refused.file, refused.row) == ("quiz.tsv", 4) and "3.wav" in refused.cause
    assert "quiz.tsv:4" in capsys.readouterr().out


def saved_at() -> dict[Path, int]:
    """When each clip of an unfinished run was saved."""
    return {path: path.stat().st_mtime_ns for path in Path("work/suite").rglob("*.flac")}


def test_a_stopped_run_continues_and_makes_no_clip_again(project, monkeypatch):
    write_jsonl(Path("quiz/questions.jsonl"), quiz(2))
    whole, write_clips = run(PARAMS)[0], suite.write_clips
    shutil.move("out", "first")
    monkeypatch.setattr(suite, "write_clips", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(PARAMS)
    stopped, continued = saved_at(), {}
    assert len(stopped) == len(whole)

    def observed_write(*arguments):
        continued.update(saved_at())
        write_clips(*arguments)

    monkeypatch.setattr(suite, "write_clips", observed_write)
    assert run(PARAMS)[0] == whole and not list(Path("work/suite").iterdir())
    assert continued == stopped


def test_a_changed_question_is_recorded_again(project):
    write_jsonl(Path("quiz/questions.jsonl"), quiz(1))
    run(PARAMS)
    changed = quiz(1)[0].model_copy(update={"prompt": "What is one plus one?"})
    write_jsonl(Path("quiz/questions.jsonl"), [changed])
    assert {clip.transcript for clip in run(PARAMS)[0].values()} == {"What is one plus one?"}


def test_a_folder_without_a_row_that_can_be_scored_stops_before_recording(project, monkeypatch):
    write_jsonl(Path("quiz/questions.jsonl"), [Question(id="q", prompt=" ", answers=["x"])])
    monkeypatch.setattr(suite, "record_all", None)
    with pytest.raises(UserError, match=r"questions.jsonl.*the question is missing"):
        run(PARAMS)
    assert not Path("out").exists()
