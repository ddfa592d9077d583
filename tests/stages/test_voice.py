"""The voice stage on a few rows with the real engines: who speaks what, same bytes again, and after a kill -9."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from speech_rba.config import Params, load_params
from speech_rba.errors import UserError
from speech_rba.records import Clip, Message, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import voice
from speech_rba.synthesis import record_clips, voices
from speech_rba.synthesis.conditions import CONDITIONS, DEGRADED, TRAINED

ROOT = Path(__file__).parents[2]


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
    (folder / "data").mkdir()
    (folder / "data/topics.txt").write_text("lions\nrain\nbread\n")


@pytest.fixture
def params() -> Params:
    project = load_params(ROOT / "params.yaml")
    return project.model_copy(update={"voice": project.voice.model_copy(update={"train_clips_per_row": 1})})


def planned_clips(params: Params, rows: list[Row]) -> list[Clip]:
    return [clip for clips in voice.plan(params.voice, rows) for clip in clips]


def few_rows_will_do(monkeypatch) -> None:
    monkeypatch.setattr(voice, "check_conditions", lambda speeches: None)


def digests(out: Path) -> dict[str, str]:
    files = [out / "manifest.jsonl", *sorted((out / "clips").iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_manifest_says_who_speaks_what_and_how(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    few_rows_will_do(monkeypatch)
    texts = [
        (0, "train", "How do trees grow?"),
        (1, "test", "Why is it hot?"),
        (2, "test", "Where is it cold?"),
    ]
    texts += [(3, "test", "Who was here?"), (4, "validation", "Who is it?"), (5, "validation", "What is it?")]
    make_inputs(tmp_path, [row(*text) for text in texts])
    voice.run(params, Path("data"), Path("rows"), Path("out"))
    clips = {clip.id: clip for clip in read_jsonl(Path("out/manifest.jsonl"), Clip)}
    assert len(clips) == params.voice.train_clips_per_row + 3 * 4 + 2 * 2
    assert clips["r0-0"].split == "train"
    assert not clips["r0-0"].heldout_voice
    for row_id, heldout in (("r1", False), ("r2", True), ("r3", False)):
        recorded = [clip for clip in clips.values() if clip.row_id == row_id]
        assert len({clip.condition for clip in recorded}) == 4 and recorded[0].condition == "clean"
        assert len({(clip.voice, clip.rate, clip.pitch_semitones, clip.level_db) for clip in recorded}) == 1
        assert {clip.heldout_voice for clip in recorded} == {heldout}
    assert clips["r2-clean"].voice in params.voice.heldout_voices
    assert (
        clips["r5-clean"].voice in params.voice.validation_voices and clips["r5-clean"].split == "validation"
    )
    assert not clips["r4-clean"].heldout_voice
    for clip in clips.values():
        audio, sampling_rate = soundfile.read(Path("out") / clip.path)
        assert sampling_rate == 16_000
        assert len(audio) / 16_000 == clip.duration_s > 0.4
        assert hashlib.sha256((Path("out") / clip.path).read_bytes()).hexdigest() == clip.sha256
        level_db = 20 * np.log10(np.sqrt(np.mean(audio**2)))
        assert level_db == pytest.approx(clip.level_db, abs=0.1) or np.abs(audio).max() == pytest.approx(
            0.99, abs=1e-3
        )
    report = json.loads(Path("out/report.json").read_text())
    assert report["num_clips"] == len(clips)
    assert report["real_time_factor"] == pytest.approx(report["minutes"] / report["audio_minutes"], abs=1e-4)


def test_order_and_workers_change_no_byte(tmp_path, monkeypatch, params):
    rows = [row(i, "train", f"Tell me about number {i}.") for i in range(6)]
    found = []
    few_rows_will_do(monkeypatch)
    for name, these, num_workers in (("a", rows, 2), ("b", rows[::-1], 1)):
        monkeypatch.setattr(record_clips.os, "cpu_count", lambda num=num_workers: num)
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make_inputs(tmp_path / name, these)
        voice.run(params, Path("data"), Path("rows"), Path("out"))
        found.append(digests(Path("out")))
        found[-1].pop("manifest.jsonl")  # in the order of the rows
    assert found[0] == found[1]


def test_conditions_are_drawn_as_promised(params):
    planned = [clips[0] for clips in voice.plan(params.voice, [row(i, "train", "Why?") for i in range(2000)])]
    share = {c: sum(clip.condition == c for clip in planned) / 2000 for c in CONDITIONS}
    assert share.pop("clean") == pytest.approx(0.1, abs=0.03)
    assert [share[c] for c in TRAINED[1:]] == pytest.approx([0.9 / 8] * 8, abs=0.02)
    assert share["muffled"] == share["packet_loss"] == 0
    assert not {*params.voice.heldout_voices, *params.voice.validation_voices} & {
        clip.voice for clip in planned
    }
    for engine in ("hibari", "piper", "espeak"):
        assert sum(clip.engine == engine for clip in planned) / 2000 == pytest.approx(1 / 3, abs=0.04)
    noisy = {"white_noise", "pink_noise", "hum", "babble"}
    assert all(("snr_db" in clip.strength) == (clip.condition in noisy) for clip in planned)
    assert all(("rt60_s" in clip.strength) == (clip.condition == "room") for clip in planned)
    assert all((clip.spoken != clip.transcript) == (clip.condition == "hesitant") for clip in planned)
    assert all(0.7 <= clip.rate <= 1.5 and -32 <= clip.level_db <= -16 for clip in planned)


@pytest.mark.parametrize(
    ("split", "conditions", "each"), [("test", DEGRADED, 3), ("validation", TRAINED[1:], 1)]
)
def test_conditions_take_turns_over_held_out_texts_in_both_kinds_of_voice(params, split, conditions, each):
    num = 20 if split == "test" else 2 * len(conditions)
    planned = planned_clips(params, [row(i, split, f"Why {i}?") for i in range(num)])
    for heldout in (False, True):
        counts = {
            c: sum(clip.condition == c for clip in planned if clip.heldout_voice == heldout)
            for c in CONDITIONS
        }
        assert {c: n for c, n in counts.items() if n} == {"clean": num // 2} | dict.fromkeys(conditions, each)


def test_no_voice_speaks_in_two_splits_but_those_of_training(params):
    splits = ["train", "validation", "test"]
    planned = planned_clips(params, [row(i, splits[i % 3], f"Why {i}?") for i in range(300)])
    spoken = {split: {c.voice for c in planned if c.split == split and c.heldout_voice} for split in splits}
    assert spoken["train"] == set()
    assert spoken["validation"] == set(params.voice.validation_voices)
    assert spoken["test"] == set(params.voice.heldout_voices)


def test_seven_test_rows_are_in_every_condition_and_six_are_told_what_to_raise(params):
    def planned(num: int) -> list[list[Clip]]:
        return voice.plan(params.voice, [row(i, "test", f"Why {i}?") for i in range(num)])

    voice.check_conditions(planned(7))
    with pytest.raises(UserError, match=r"6 test rows are too few.*packet_loss would be missing: raise"):
        voice.check_conditions(planned(6))


@pytest.mark.parametrize("name", ["hibari-heart", "piper-joe", "espeak-en-us"])
def test_a_text_that_cannot_be_spoken_gives_a_silent_clip(name, tmp_path, params):
    make_inputs(tmp_path, [row(0, "test", "")])
    planned = voice.plan(params.voice, [row(0, "test", "")])[0]
    strength = {"snr_db": 0.0, "rt60_s": 0.9, "drive_db": 20.0, "cutoff_hz": 1000.0, "lost_share": 0.2}
    talkers = voices.plan_talkers(params.voice, tmp_path / "data")
    every = [
        planned[0].model_copy(update={"id": f"r0-{c}", "condition": c, "strength": strength})
        for c in CONDITIONS
    ]
    new, silent = record_clips.record(
        [clip.model_copy(update={"voice": name}) for clip in every], tmp_path, talkers
    )
    assert new == {clip.id for clip in silent}
    assert {clip.condition for clip in silent} == set(CONDITIONS)
    assert max(clip.duration_s for clip in silent) < 1.7  # two pauses of 0.3 s and an echo of 0.9 s
    assert all(np.abs(soundfile.read(tmp_path / f"{clip.id}.flac")[0]).max() == 0 for clip in silent)


def test_ids_that_are_no_file_names_are_refused():
    for ids, wrong in ((["../r0-0"], "../r0-0"), (["r0-0", "r0-0"], "r0-0")):
        with pytest.raises(UserError, match=f"clip id '{re.escape(wrong)}' must be unique"):
            record_clips.check_ids(ids)


def start(folder: Path) -> subprocess.Popen:
    command = ["-m", "speech_rba.stages.voice", "--data", "data", "--rows", "rows", "--out", "out"]
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "params.yaml", tmp_path / name)
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
    assert 5 <= num_kept < 8 * 4
    assert digests(tmp_path / "killed/out") == digests(tmp_path / "whole/out")
    assert not list((tmp_path / "killed/work/voice").iterdir())


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    texts = ["Who was " + "very " * 40 + "old?", *(f"Why {i}?" for i in range(7))]
    make_inputs(tmp_path, [row(i, "test", text) for i, text in enumerate(texts)])
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
    assert len(read_jsonl(tmp_path / "out/manifest.jsonl", Clip)) == 8 * 4
