"""The voice stage on a few rows with the real engines: its files, and that a stopped run continues to the
same bytes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from speech_rba.config import load_params
from speech_rba.records import Clip, Message, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import voice
from speech_rba.synthesis import record_clips

ROOT = Path(__file__).parents[2]
COMMAND = ["-m", "speech_rba.stages.voice", "--data", "data", "--rows", "rows", "--out", "out"]


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


def make_project(folder: Path, prompts: list[str]) -> Path:
    """A folder in which the stage can run, with a test row for each prompt."""
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    make_inputs(folder, [row(i, "test", prompt) for i, prompt in enumerate(prompts)])
    return folder


def digests(out: Path) -> dict[str, str]:
    files = [out / "manifest.jsonl", *sorted((out / "clips").iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def record_in_this_process(monkeypatch) -> None:
    """The engines are loaded once for all tests, and not once a process of a pool."""
    monkeypatch.setattr(record_clips, "process_pool", lambda: nullcontext(map))


@pytest.fixture(scope="module")
def rows_out(tmp_path_factory) -> Path:
    """The output for a row of training, three of the test and two of validation."""
    project = load_params(ROOT / "params.yaml")
    params = project.model_copy(update={"voice": project.voice.model_copy(update={"train_clips_per_row": 1})})
    splits = ["train", "test", "test", "test", "validation", "validation"]
    folder = tmp_path_factory.mktemp("rows_out")
    make_inputs(folder, [row(i, split, f"Why {i}?") for i, split in enumerate(splits)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(voice, "check_conditions", lambda _speeches: None)  # it needs seven test rows
        record_in_this_process(monkeypatch)
        voice.run(params, Path("data"), Path("rows"), Path("out"))
    return folder / "out"


def test_a_held_out_row_has_one_voice_and_a_clip_for_each_condition(rows_out):
    settings = load_params(ROOT / "params.yaml").voice
    clips = {clip.id: clip for clip in read_jsonl(rows_out / "manifest.jsonl", Clip)}
    assert len(clips) == 1 + 3 * 4 + 2 * 2
    assert clips["r0-0"].split == "train" and not clips["r0-0"].heldout_voice
    for row_id, heldout in (("r1", False), ("r2", True), ("r3", False)):
        recorded = [clip for clip in clips.values() if clip.row_id == row_id]
        assert len({clip.condition for clip in recorded}) == 4 and recorded[0].condition == "clean"
        assert len({(clip.voice, clip.rate, clip.pitch_semitones, clip.level_db) for clip in recorded}) == 1
        assert {clip.heldout_voice for clip in recorded} == {heldout}
    assert clips["r2-clean"].voice in settings.heldout_voices
    assert clips["r5-clean"].voice in settings.validation_voices
    assert clips["r5-clean"].split == "validation" and not clips["r4-clean"].heldout_voice


def test_the_files_have_the_duration_the_hash_and_the_level_of_the_manifest(rows_out):
    clips = read_jsonl(rows_out / "manifest.jsonl", Clip)
    for clip in clips:
        audio, sampling_rate = soundfile.read(rows_out / clip.path)
        assert sampling_rate == 16_000
        assert len(audio) / 16_000 == clip.duration_s > 0.4
        assert hashlib.sha256((rows_out / clip.path).read_bytes()).hexdigest() == clip.sha256
        level_db = 20 * np.log10(np.sqrt(np.mean(audio**2)))
        at_level = level_db == pytest.approx(clip.level_db, abs=0.1)
        assert at_level or np.abs(audio).max() == pytest.approx(0.99, abs=1e-3)
    report = json.loads((rows_out / "report.json").read_text())
    assert report["num_clips"] == len(clips)
    assert report["real_time_factor"] == pytest.approx(report["minutes"] / report["audio_minutes"], abs=1e-4)


def num_kept(output: str) -> int:
    """The number of clips of an earlier run, from the output of the stage."""
    return int(output.split(" from an earlier run")[0].split()[-1])


def test_a_killed_run_ends_its_processes_and_continues_to_the_same_bytes(tmp_path, monkeypatch, caplog):
    prompts = [f"Tell me {i}." for i in range(8)]
    whole, killed = (make_project(tmp_path / name, prompts) for name in ("whole", "killed"))
    record_in_this_process(monkeypatch)
    params = load_params(ROOT / "params.yaml")
    monkeypatch.chdir(whole)
    voice.run(params, Path("data"), Path("rows"), Path("out"))
    victim = subprocess.Popen([sys.executable, *COMMAND], cwd=killed, stderr=subprocess.DEVNULL)
    while len(list((killed / "work").rglob("*.json"))) < 5:
        assert victim.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(victim.pid).children(recursive=True)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not psutil.wait_procs(workers, timeout=5)[1], "the processes of the pool outlive the stage"
    assert not (killed / "out").exists()
    monkeypatch.chdir(killed)
    caplog.set_level("INFO")
    voice.run(params, Path("data"), Path("rows"), Path("out"))
    assert 5 <= num_kept(caplog.text) < 8 * 4
    assert digests(killed / "out") == digests(whole / "out")
    assert not list((killed / "work/voice").iterdir())


def test_a_full_disk_is_one_clear_line_and_keeps_the_finished_clips(tmp_path, monkeypatch, caplog):
    project = make_project(
        tmp_path / "project", ["Who was " + "very " * 40 + "old?", *(f"Why {i}?" for i in range(7))]
    )
    limited = ["sh", "-c", 'ulimit -f 400; exec "$0" "$@"', sys.executable, *COMMAND]  # no file above 200 kB
    stopped = subprocess.run(limited, cwd=project, capture_output=True, text=True, check=False)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].startswith("error: no room to write")
    assert "free some and run again" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not (project / "out").exists()
    record_in_this_process(monkeypatch)
    monkeypatch.chdir(project)
    caplog.set_level("INFO")
    voice.run(load_params(ROOT / "params.yaml"), Path("data"), Path("rows"), Path("out"))
    assert num_kept(caplog.text) > 0
    assert len(read_jsonl(project / "out/manifest.jsonl", Clip)) == 8 * 4
