"""A new condition and a new voice engine each touch two files; a copy of the tree with both records a
clip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
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
clip = draw_clip(voice, "r0-loud", "loud_noise", fields)
_, [done] = record([clip], Path(sys.argv[1]), plan_talkers(voice, Path("data")))
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
    # the condition: its name, and its entry in the table
    insert(package / "records.py", '"packet_loss",', '"loud_noise", ')
    entry = '    "loud_noise": _noise(lambda num_samples, draw: augment.hum(num_samples, draw.rng)),\n'
    insert(package / "synthesis/conditions.py", '    "packet_loss": Degradation(', entry)
    # the engine: its file, and its entry in the table
    (package / "synthesis/voices/toy.py").write_text(ENGINE)
    engines = package / "synthesis/voices/voices.py"
    imported = "from speech_rba.synthesis.voices import toy\n"
    insert(engines, "from speech_rba.synthesis.voices.speaker import", imported)
    insert(engines, '"hibari": hibari,', '"toy": toy, ')
    ran = subprocess.run(
        [sys.executable, "-c", RECORD, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split()[:3] == ["loud_noise", "toy-tone", "True"], ran.stderr
    assert ran.stdout.strip().endswith("dB SNR")
