"""A new condition with a new strength and a new voice engine each touch two files; a copy of the tree with
both records a clip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from speech_rba.config import change_params

ROOT = Path(__file__).parents[2]
CONDITION = """    "tremolo": Degradation(
        lambda audio, draw: audio * np.cos(np.arange(len(audio)) / 2500 * draw.strength["tremolo_hz"]),
        ("tremolo_hz",),
        "{tremolo_hz:.1f} Hz",
    ),
"""
ENGINE = """
import numpy as np
from speech_rba.synthesis.voices.speaker import Speaker
VOICES = {"tone": Speaker("man", "British")}

def say(name, text, rate):
    return 0.1 * np.sin(np.arange(int(8000 / rate), dtype=np.float32) / 10), 16_000
"""
RECORD = """
import sys
from pathlib import Path
from speech_rba.config import load_params
from speech_rba.synthesis.plan_clips import Setting, draw_clip, draw_speech
from speech_rba.synthesis.record_clips import record
from speech_rba.synthesis.voices.voices import plan_talkers
voice = load_params(Path("params.yaml")).voice
fields = draw_speech(voice, "r0", ["toy-tone"], "r0", "alignment", "test", "Why?", Setting())
clip = draw_clip(voice, "r0-tremolo", "tremolo", fields)
_, [done] = record([clip], Path("clips"), plan_talkers(voice, Path(sys.argv[1])))
print(done.condition, done.voice, done.duration_s > 0.4, done.strength_text)
"""


def insert(file: Path, before: str, line: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, f"{before!r} marks one place of {file.name}"
    file.write_text(text.replace(before, line + before))


def test_a_condition_and_an_engine_touch_two_files_each(tmp_path):
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    package = source / "speech_rba"
    # the condition: its entry in the table, and the range of its strength
    insert(package / "synthesis/conditions.py", '    "packet_loss": Degradation(', CONDITION)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    insert(tmp_path / "params.yaml", "    packet_loss:", "    tremolo: {tremolo_hz: [3.0, 3.0]}\n")
    change_params(tmp_path / "params.yaml", {"register.rank_by": "spoken_qa/tremolo/accuracy"})
    # the engine: its file, and its entry in the table
    (package / "synthesis/voices/toy.py").write_text(ENGINE)
    engines = package / "synthesis/voices/voices.py"
    imported = "from speech_rba.synthesis.voices import toy\n"
    insert(engines, "from speech_rba.synthesis.voices.speaker import", imported)
    insert(engines, '"hibari": hibari,', '"toy": toy, ')
    (tmp_path / "clips").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", RECORD, str(ROOT / "data")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["tremolo", "toy-tone", "True", "3.0", "Hz"], ran.stderr
