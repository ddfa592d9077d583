import hashlib
import json
from pathlib import Path

import pytest

from speech_rba.config import Gate, load_params
from speech_rba.records import Clip, write_jsonl
from speech_rba.stages import gate

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").model_copy(
    update={"gate": Gate(max_quarantine_share=0.25, min_train_clips=2)}
)
SAID = {
    "suite": "alignment",
    "transcript": "a",
    "voice": "v",
    "engine": "e",
    "heldout_voice": False,
    "sha256": "0",
}
SETTINGS = {
    "rate": 1.0,
    "pitch_semitones": 0.0,
    "level_db": -20.0,
    "strength": {},
    "heldout_condition": False,
    "spoken": "x",
    "seed": 0,
}
SETTINGS |= {"condition": "clean", "duration_s": 1.0}


def write(
    folder: Path, splits=("train", "train", "test"), quarantined=1, passed=True, suite_passed=True, **changes
) -> Path:
    """A validation folder with one accepted clip for each of `splits`."""
    folder.mkdir()
    clips = [
        Clip(id=f"c{n}", row_id=f"r{n}", split=split, path="c.flac", **SAID, **SETTINGS)
        for n, split in enumerate(splits)
    ]
    write_jsonl(folder / "accepted.jsonl", clips)
    critical = {
        "name": "one_split",
        "critical": True,
        "passed": passed,
        "observed": "7 clips",
        "expected": "none",
    }
    by_clip = {
        "name": "silent",
        "critical": False,
        "passed": False,
        "observed": "1 clips",
        "expected": "loud",
    }
    counts = {
        "num_clips": len(clips) + quarantined,
        "num_accepted": len(clips),
        "num_quarantined": quarantined,
    }
    report = counts | {"reasons": {"silent": quarantined}, "checks": [critical, by_clip]} | changes
    report["suites"] = {
        "quiz": {**report, "checks": [critical | {"passed": suite_passed}, by_clip], "refused": {}}
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_good_data_passes_with_its_hash(tmp_path):
    validation = write(tmp_path / "validate")
    gate.run(PARAMS, validation, tmp_path / "gate")
    found = json.loads((tmp_path / "gate/gate.json").read_text())
    assert found["passed"] is True
    names = [check["name"] for check in found["checks"]]
    assert names == ["one_split", "report_agrees", "quarantine_share", "train_clips"]
    assert found["data_sha256"] == hashlib.sha256((validation / "accepted.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passed": False}, "one_split: 7 clips; expected: none"),
        ({"suite_passed": False}, "quiz: one_split: 7 clips; expected: none"),
        ({"quarantined": 2}, "quarantine_share: 40.0%; expected: at most 25.0%"),
        ({"splits": ("train", "test", "test")}, "train_clips: 1 clips; expected: at least 2"),
        ({"num_accepted": 4, "num_clips": 5}, "report_agrees: 3 clips"),
        ({"num_quarantined": 0}, "report_agrees"),
        ({"checks": []}, "no critical check"),
        ({"num_clips": None}, "num_clips"),
        ({"passed": "false"}, "passed"),
        ({"passed": None}, "passed"),
        ({"extra": 1}, "extra"),
    ],
)
def test_anything_else_stops_and_publishes_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        gate.run(PARAMS, write(tmp_path / "validate", **changes), tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_every_failed_check_is_listed(tmp_path):
    with pytest.raises(ValueError) as error:
        gate.run(PARAMS, write(tmp_path / "validate", splits=(), passed=False), tmp_path / "gate")
    assert all(name in str(error.value) for name in ["one_split", "quarantine_share", "train_clips"])


@pytest.mark.parametrize("file", ["report.json", "accepted.jsonl"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "null"])
def test_missing_and_malformed_files_stop(tmp_path, file, content):
    validation = write(tmp_path / "validate")
    if content is None:
        (validation / file).unlink()
    else:
        (validation / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=r"report\.json|accepted"):
        gate.run(PARAMS, validation, tmp_path / "gate")
    assert not (tmp_path / "gate").exists()
