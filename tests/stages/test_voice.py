"""The voice stage on a few rows with the real engines: who speaks what, same bytes again, and after a kill -9."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import yaml

from speech_rba.params import Params, load_params
from speech_rba.records import Clip, Manner, Message, Question, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import voice
from speech_rba.synthesis import voices
from speech_rba.synthesis.conditions import CONDITIONS, HARD, TRAINED
from speech_rba.synthesis.recording import SETTINGS
from speech_rba.synthesis.voices import VOICES

ROOT = Path(__file__).parents[2]
QUIZ = {"quiz"}


def row(number: int, split: str, prompt: str) -> Row:
    return Row(
        id=f"r{number}",
        task="question",
        split=split,
        messages=[Message(role="user", content=prompt)],
        prompt=prompt,
        completion="It is.",
        completion_ended=True,
        teacher="t",
        template_hash="h",
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
        seed=0,
    )


def make_inputs(folder: Path, rows: list[Row]) -> None:
    (folder / "rows").mkdir()
    write_jsonl(folder / "rows" / "rows.jsonl", rows)
    (folder / "data/suites/quiz").mkdir(parents=True)
    questions = [Question(id=f"q{i}", prompt=f"What is two plus {i}?", answers=[str(2 + i)]) for i in range(2)]
    write_jsonl(folder / "data/suites/quiz/questions.jsonl", questions)
    (folder / "data/suites/unasked").mkdir()
    write_jsonl(folder / "data/suites/unasked/questions.jsonl", questions)  # params.yaml does not name it
    (folder / "data/topics.txt").write_text("lions\nrain\nbread\n")


def write_params(folder: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["evaluate"]["suites"] = ["data/suites/quiz"]
    values["register"]["rank_by"] = "alignment/all/token_f1"
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def params(tmp_path) -> Params:
    write_params(tmp_path)
    project = load_params(tmp_path / "params.yaml")
    return project.model_copy(update={"voice": project.voice.model_copy(update={"train_clips_per_row": 1})})


def with_workers(params: Params, num_workers: int) -> Params:
    return params.model_copy(update={"voice": params.voice.model_copy(update={"num_workers": num_workers})})


def digests(out: Path) -> dict[str, str]:
    files = [out / "manifest.jsonl", *sorted((out / "clips").iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_manifest_says_who_speaks_what_and_how(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    texts = [(0, "train", "How do trees grow?"), (1, "test", "Why is it hot?"), (2, "test", "Where is it cold?")]
    texts.append((3, "test", "Who was here?"))
    make_inputs(tmp_path, [row(*text) for text in texts])
    voice.run(with_workers(params, 1), Path("data"), Path("rows"), Path("out"))
    clips = {clip.id: clip for clip in read_jsonl(Path("out/manifest.jsonl"), Clip)}
    assert len(clips) == params.voice.train_clips_per_row + 3 * 4 + 2 * 2
    assert clips["r0-0"].split == "train"
    assert not clips["r0-0"].heldout_voice
    for row_id, heldout in (("r1", False), ("r2", True), ("r3", False)):
        recorded = [clip for clip in clips.values() if clip.row_id == row_id]
        assert len({clip.condition for clip in recorded}) == 4 and recorded[0].condition == "clean"
        assert len({(clip.voice, clip.rate, clip.pitch_semitones, clip.level_db) for clip in recorded}) == 1
        assert {clip.heldout_voice for clip in recorded} == {heldout}
    assert clips["quiz-q1-clean"].voice in params.voice.heldout_voices
    assert clips["quiz-q1-clean"].suite == "quiz"
    assert clips["quiz-q0-clean"].split == "test"
    for clip in clips.values():
        audio, sampling_rate = soundfile.read(Path("out") / clip.path)
        assert sampling_rate == 16_000
        assert len(audio) / 16_000 == clip.duration_s > 0.4
        assert hashlib.sha256((Path("out") / clip.path).read_bytes()).hexdigest() == clip.sha256
        level_db = 20 * np.log10(np.sqrt(np.mean(audio**2)))
        assert level_db == pytest.approx(clip.level_db, abs=0.1) or np.abs(audio).max() == pytest.approx(0.99, abs=1e-3)
    report = json.loads(Path("out/report.json").read_text())
    assert report["num_clips"] == len(clips)
    assert report["real_time_factor"] == pytest.approx(report["minutes"] / report["audio_minutes"], abs=1e-4)


def test_a_question_about_the_manner_is_asked_in_it(tmp_path, params):
    make_inputs(tmp_path, [])
    manners = [(trait, value) for trait, values in SETTINGS.items() for value in values for _ in range(4)]
    questions = [
        Question(id=f"m{i}", prompt="How do I sound?", answers=["So."], manner=Manner(trait=trait, value=value))
        for i, (trait, value) in enumerate(manners)
    ]
    write_jsonl(tmp_path / "data/suites/quiz/questions.jsonl", questions)
    clips = [clip for clips in voice.plan(params.voice, tmp_path / "data", tmp_path / "rows", QUIZ) for clip in clips]
    asked = {q.id: (q.manner.trait, q.manner.value) for q in questions}
    of = {manner: [c for c in clips if asked[c.row_id] == manner] for manner in manners}
    assert {VOICES[c.voice].gender for c in of["gender", "woman"]} == {"woman"}
    assert {VOICES[c.voice].accent for c in of["accent", "British"]} == {"British"}
    assert all(0.7 <= c.rate <= 0.8 for c in of["rate", "slow"]) and all(c.rate >= 1.3 for c in of["rate", "fast"])
    assert {c.condition for c in of["noise", "noisy"]} <= {"white_noise", "pink_noise", "hum", "babble"}
    assert {c.condition for c in of["noise", "quiet"] + of["line", "direct"]} == {"clean"}
    assert {c.condition for c in of["line", "telephone"]} == {"telephone"}
    assert [len(of[manner]) for manner in (("gender", "man"), ("noise", "noisy"))] == [8, 4]
    assert all({c.heldout_voice for c in found} == {False, True} for found in of.values())


def test_order_and_workers_change_no_byte(tmp_path, monkeypatch, params):
    rows = [row(i, "train", f"Tell me about number {i}.") for i in range(6)]
    found = []
    for name, these, num_workers in (("a", rows, 2), ("b", rows[::-1], 1)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make_inputs(tmp_path / name, these)
        voice.run(with_workers(params, num_workers), Path("data"), Path("rows"), Path("out"))
        found.append(digests(Path("out")))
        found[-1].pop("manifest.jsonl")  # in the order of the rows
    assert found[0] == found[1]


def test_conditions_are_drawn_as_promised(tmp_path, params):
    make_inputs(tmp_path, [row(i, "train", "Why?") for i in range(2000)])
    planned = [clips[0] for clips in voice.plan(params.voice, tmp_path / "data", tmp_path / "rows", QUIZ)][:2000]
    share = {c: sum(clip.condition == c for clip in planned) / 2000 for c in CONDITIONS}
    assert share.pop("clean") == pytest.approx(0.1, abs=0.03)
    assert [share[c] for c in TRAINED[1:]] == pytest.approx([0.9 / 8] * 8, abs=0.02)
    assert share["muffled"] == share["packet_loss"] == 0
    assert not set(params.voice.heldout_voices) & {clip.voice for clip in planned}
    for engine in ("hibari", "piper", "espeak"):
        assert sum(clip.engine == engine for clip in planned) / 2000 == pytest.approx(1 / 3, abs=0.04)
    noisy = {"white_noise", "pink_noise", "hum", "babble"}
    assert all(("snr_db" in clip.strength) == (clip.condition in noisy) for clip in planned)
    assert all(("rt60_s" in clip.strength) == (clip.condition == "room") for clip in planned)
    assert all((clip.spoken != clip.transcript) == (clip.condition == "hesitant") for clip in planned)
    assert all(0.7 <= clip.rate <= 1.5 and -32 <= clip.level_db <= -16 for clip in planned)


def test_conditions_take_turns_over_test_texts_in_both_kinds_of_voice(tmp_path, params):
    make_inputs(tmp_path, [row(i, "test", f"Why {i}?") for i in range(20)])
    planned = [
        clip for clips in voice.plan(params.voice, tmp_path / "data", tmp_path / "rows", QUIZ)[:20] for clip in clips
    ]
    for heldout in (False, True):
        counts = {c: sum(clip.condition == c for clip in planned if clip.heldout_voice == heldout) for c in CONDITIONS}
        assert counts == {"clean": 10} | dict.fromkeys(HARD, 3)


@pytest.mark.parametrize("name", ["hibari-heart", "piper-joe", "espeak-en-us"])
def test_a_text_that_cannot_be_spoken_gives_a_silent_clip(name, tmp_path, params):
    make_inputs(tmp_path, [row(0, "test", "")])
    planned = voice.plan(params.voice, tmp_path / "data", tmp_path / "rows", QUIZ)[0]
    strength = {"snr_db": 0.0, "rt60_s": 0.9, "drive_db": 20.0, "cutoff_hz": 1000.0, "lost_share": 0.2}
    talkers = voices.plan_talkers(params.voice.heldout_voices, tmp_path / "data")
    every = [planned[0].model_copy(update={"id": f"r0-{c}", "condition": c, "strength": strength}) for c in CONDITIONS]
    new, silent = voice.record([clip.model_copy(update={"voice": name}) for clip in every], tmp_path, talkers)
    assert new == {clip.id for clip in silent}
    assert {clip.condition for clip in silent} == set(CONDITIONS)
    assert max(clip.duration_s for clip in silent) < 1.7  # two pauses of 0.3 s and an echo of 0.9 s
    assert all(np.abs(soundfile.read(tmp_path / f"{clip.id}.flac")[0]).max() == 0 for clip in silent)


def test_only_the_first_questions_of_a_suite_are_spoken(tmp_path, params):
    make_inputs(tmp_path, [row(0, "train", "Why?")])
    few = params.voice.model_copy(update={"max_suite_questions": 1})
    planned = voice.plan(few, tmp_path / "data", tmp_path / "rows", QUIZ)
    assert [clips[0].row_id for clips in planned] == ["r0", "q0"]


def test_ids_that_are_no_file_names_are_refused(tmp_path, params):
    make_inputs(tmp_path, [row(0, "train", "Why?").model_copy(update={"id": "../r0"})])
    with pytest.raises(ValueError, match=r"clip id '\.\./r0-0' must be unique"):
        voice.plan(params.voice, tmp_path / "data", tmp_path / "rows", QUIZ)
    write_jsonl(tmp_path / "rows/rows.jsonl", [row(0, "train", "Why?")] * 2)
    with pytest.raises(ValueError, match="'r0-0' must be unique"):
        voice.plan(params.voice, tmp_path / "data", tmp_path / "rows", QUIZ)


def start(folder: Path) -> subprocess.Popen:
    command = ["-m", "speech_rba.stages.voice", "--data", "data", "--rows", "rows", "--out", "out"]
    return subprocess.Popen([sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write_params(tmp_path / name)
        make_inputs(tmp_path / name, [row(i, "test", f"Tell me about number {i}, please.") for i in range(8)])
    assert start(tmp_path / "whole").wait() == 0
    victim = start(tmp_path / "killed")
    while len(list((tmp_path / "killed/work").rglob("*.json"))) < 5:
        assert victim.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(victim.pid).children(recursive=True)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not psutil.wait_procs(workers, timeout=5)[1], "workers outlive the stage"
    assert not (tmp_path / "killed/out").exists()
    again = start(tmp_path / "killed")
    said = again.communicate()[0].decode()
    num_kept = int(said.split(" from an earlier run")[0].split()[-1])
    assert 5 <= num_kept < 8 * 4 + 2 * 2
    assert digests(tmp_path / "killed/out") == digests(tmp_path / "whole/out")
    assert not list((tmp_path / "killed/work/voice").iterdir())


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path):
    write_params(tmp_path)
    make_inputs(tmp_path, [row(i, "test", text) for i, text in enumerate(["Why?", "Who was " + "very " * 40 + "old?"])])
    command = ["-m", "speech_rba.stages.voice", "--data", "data", "--rows", "rows", "--out", "out"]
    limited = ["sh", "-c", 'ulimit -f 400; exec "$0" "$@"', sys.executable, *command]  # no file above 200 kB
    stopped = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].startswith("error: no room to write")
    assert "free some and run again" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not (tmp_path / "out").exists()
    again = start(tmp_path)
    said = again.communicate()[0].decode()
    assert again.returncode == 0 and int(said.split(" from an earlier run")[0].split()[-1]) > 0
    assert len(read_jsonl(tmp_path / "out/manifest.jsonl", Clip)) == 2 * 4 + 2 * 2
