"""What the terminal shows of a run, and the graph that `speech-rba stages` prints."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import speech_rba
from flows import graph_view, progress, terminal
from flows.progress import Progress, StageProgress, clock, read_times, record_time
from speech_rba import cli


@pytest.fixture
def shown(tmp_path, monkeypatch) -> Progress:
    """An empty progress, which the terminal shows, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    made = Progress()
    monkeypatch.setattr(terminal, "PROGRESS", made)
    return made


def text(renderable) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3599, 3600, None)] == ["0:00", "1:00", "59:59", "1:00:00", ""]


def test_times_of_stages_that_ran_are_kept(shown):
    assert read_times() == {}
    shown.begin({"a": [], "b": ["a"]})
    for name, outcome in {"a": "Completed", "b": "Restored"}.items():
        shown.start(name)
        shown.end(name, outcome)
    assert list(read_times()) == ["a"]
    record_time("b", 61.23)
    assert read_times()["b"].seconds == 61.2 and len(json.loads(progress.TIMES.read_text())) == 2


def test_the_time_left_is_that_of_the_longest_chain(shown):
    for name, seconds in {"a": 10, "b": 20, "c": 5, "last": 100}.items():
        record_time(name, seconds)
    shown.begin({"a": [], "b": ["a"], "c": ["a"], "last": ["b", "c"]})
    assert shown.left_s() == 130
    shown.start("a")
    shown.end("a", "Skipped")
    assert shown.left_s() == 120
    shown.start("b").started -= 15
    assert shown.left_s() == pytest.approx(105, abs=0.5)
    shown.stages["c"].last_s = None
    assert shown.left_s() is None  # it never ran here


def test_the_live_view_shows_each_stage_and_folds_the_unchanged_ones(shown):
    assert "reading the graph" in text(terminal.live_view())
    record_time("train", 90)
    shown.begin({"old": [], "done": [], "train": ["done"], "report": ["train"]})
    shown.stages["old"].state = "Skipped"
    shown.stages["done"].state, shown.stages["done"].seconds = "Completed", 61.0
    shown.start("train").line = "step 3 of 9: 33%"
    lines = [" ".join(line.split()) for line in text(terminal.live_view()).splitlines()]
    assert lines[:4] == [
        "unchanged: old",
        "done done 1:01",
        "train running 0:00 (~1:30 left) step 3 of 9: 33%",
        "report waiting",
    ]
    assert lines[4].startswith("0:00 elapsed") and lines[4].endswith("log: work/logs/run.log")


def test_without_a_terminal_a_stage_prints_a_line_at_start_and_end(shown, capfd):
    with terminal.show_progress():
        shown.begin({"a": [], "b": ["a"]})
        shown.start("a")
        time.sleep(2 * terminal.POLL_S)
        os.write(2, b"of a library\n")
        shown.end("a", "Completed")
        shown.start("b")
        shown.end("b", "Skipped")
    assert capfd.readouterr().out.splitlines() == ["a: running", "a: completed in 0:00", "b: skipped"]
    assert terminal.LOG.read_text() == "of a library\n"


def test_stderr_returns_to_the_terminal_after_an_error(shown, capfd):
    with pytest.raises(KeyboardInterrupt), terminal.show_progress():
        raise KeyboardInterrupt
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def call_stages(monkeypatch, capfd) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `speech-rba stages`."""
    packages = [str(Path(module.__file__).parents[1]) for module in (speech_rba, progress)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(packages))
    with pytest.raises(SystemExit) as caught:
        cli.stages()
    return caught.value.code, *capfd.readouterr()


def test_the_command_prints_what_each_stage_waits_for_and_its_last_run(shown, monkeypatch, capfd):
    stages = "stages:\n  b: {cmd: echo b, deps: [a.txt]}\n  a: {cmd: touch a.txt, outs: [a.txt]}\n"
    Path("dvc.yaml").write_text(stages)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, capture_output=True)
    record_time("a", 75)
    code, output, _ = call_stages(monkeypatch, capfd)
    rows = [line.split("│")[1:-1] for line in output.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert code == 0 and cells[1] == ["b", "-", "-", "runs", "a"]
    assert cells[0][0] == "a" and cells[0][1].startswith("20") and cells[0][2:] == ["1:15", "runs", "-"]


def test_the_graph_omits_stages_that_another_one_waits_for():
    waits_for = {"a": [], "b": ["a"], "c": ["a"], "d": ["a", "b", "c"], "e": ["a", "d"]}
    assert graph_view.nearest(waits_for) == {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["d"]}


def test_the_command_refuses_a_folder_without_a_pipeline(shown, monkeypatch, capfd):
    code, _, error = call_stages(monkeypatch, capfd)
    assert code == 1 and error.startswith("error: no dvc.yaml in ") and error.count("\n") == 1


def test_a_stage_that_takes_longer_than_last_time_has_no_time_left():
    stage = StageProgress([], last_s=10, state="Running", started=time.monotonic() - 11)
    assert stage.left_s() is None
