"""The suite stage with the real engines: written questions are voiced, recordings kept and degraded, bad rows told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.config import Params, load_params
from speech_rba.errors import UserError
from speech_rba.records import Attribute, Clip, Question, RefusedRow, read_jsonl, write_jsonl
from speech_rba.stages import suite
from speech_rba.synthesis.conditions import SOUND, TRAINED
from speech_rba.synthesis.plan_clips import SETTINGS
from speech_rba.synthesis.voices.voices import VOICES

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
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


def test_a_share_is_dealt_evenly_and_never_empty():
    assert [n for n in range(14) if suite.is_dealt(n, 0.3)] == [0, 4, 7, 10]
    assert [n for n in range(3) if suite.is_dealt(n, 0.01)] == [0]
    assert not any(suite.is_dealt(n, 0.0) for n in range(9)) and all(suite.is_dealt(n, 1.0) for n in range(9))


def test_a_question_about_the_manner_is_asked_in_it():
    attributes = [(name, value) for name, values in SETTINGS.items() for value in values for _ in range(6)]
    questions = [
        Question(
            id=f"m{i}", prompt="How do I sound?", answers=["So."], attribute=Attribute(name=name, value=value)
        )
        for i, (name, value) in enumerate(attributes)
    ]
    planned = [clip for clips in suite.plan_written(PARAMS, "quiz", questions) for clip in clips]
    asked = {q.id: (q.attribute.name, q.attribute.value) for q in questions}
    of = {attribute: [c for c in planned if asked[c.row_id] == attribute] for attribute in attributes}
    assert {VOICES[c.voice].gender for c in of["gender", "woman"]} == {"woman"}
    assert {VOICES[c.voice].accent for c in of["accent", "British"]} == {"British"}
    assert all(0.7 <= c.rate <= 0.8 for c in of["rate", "slow"]) and all(
        c.rate >= 1.3 for c in of["rate", "fast"]
    )
    assert {c.condition for c in of["noise", "noisy"]} <= {"white_noise", "pink_noise", "hum", "babble"}
    assert {c.condition for c in of["noise", "quiet"] + of["line", "direct"]} == {"clean"}
    assert {c.condition for c in of["line", "telephone"]} == {"telephone"}
    assert [len(of[attribute]) for attribute in (("gender", "man"), ("noise", "noisy"))] == [12, 6]


def test_recordings_are_for_the_test_and_bad_rows_are_told(project, capsys):
    tone = 0.1 * np.sin(np.arange(16_000) / 10) * (np.arange(16_000) % 4000 > 2000)
    for name in ("1", "2"):
        soundfile.write(f"quiz/{name}.wav", tone, 16_000)
    Path("quiz/quiz.tsv").write_text(
        "file\tquestion\tanswer\n1.wav\tWhy?\tso\n2.wav\tWho?\tme\n3.wav\tNo?\tno\n"
    )
    clips, report = run(PARAMS)
    assert report["num_questions"] == 2 and report["num_refused"] == 1
    assert {c.split for c in clips.values()} == {"test"} and {c.engine for c in clips.values()} == {
        "recorded"
    }
    assert [c.condition for c in clips.values()] == ["clean", *SOUND[:2], "clean", *SOUND[2:4]]
    assert np.allclose(soundfile.read("out/" + clips["quiz-00000-clean"].path)[0], tone, atol=1e-3)
    [refused] = read_jsonl(Path("out/refused.jsonl"), RefusedRow)
    assert (refused.file, refused.row) == ("quiz.tsv", 4) and "3.wav" in refused.cause
    assert "quiz.tsv:4" in capsys.readouterr().out


def made_at() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path("work/suite").rglob("*.flac")}


def test_a_stopped_run_goes_on_and_a_corrected_folder_is_read_anew(project, monkeypatch):
    write_jsonl(Path("quiz/questions.jsonl"), quiz(2))
    whole, write_clips = run(PARAMS)[0], suite.write_clips
    shutil.move("out", "first")
    monkeypatch.setattr(suite, "write_clips", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(PARAMS)
    kept, found = made_at(), {}
    assert len(kept) == len(whole)
    monkeypatch.setattr(suite, "write_clips", lambda *what: (found.update(made_at()), write_clips(*what)))
    assert run(PARAMS)[0] == whole and not list(Path("work/suite").iterdir())
    assert found == kept  # no clip was made again
    write_jsonl(
        Path("quiz/questions.jsonl"), [quiz(1)[0].model_copy(update={"prompt": "What is one plus one?"})]
    )
    assert {clip.transcript for clip in run(PARAMS)[0].values()} == {"What is one plus one?"}


def test_a_folder_in_which_nothing_can_be_scored_stops_before_anything_is_voiced(project, monkeypatch):
    write_jsonl(Path("quiz/questions.jsonl"), [Question(id="q", prompt=" ", answers=["x"])])
    monkeypatch.setattr(suite, "record_all", None)
    with pytest.raises(UserError, match=r"questions.jsonl.*the question is missing"):
        run(PARAMS)
    assert not Path("out").exists()
