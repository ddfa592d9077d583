"""The stage gate: it passes only data without a violated critical rule."""

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
CLIP = {
    "suite": "alignment",
    "transcript": "a",
    "voice": "v",
    "engine": "e",
    "heldout_voice": False,
    "sha256": "0",
    "rate": 1.0,
    "pitch_semitones": 0.0,
    "level_db": -20.0,
    "strength": {},
    "heldout_condition": False,
    "spoken": "x",
    "seed": 0,
    "condition": "clean",
    "duration_s": 1.0,
    "path": "c.flac",
}
CRITICAL = {"name": "one_split", "critical": True, "observed": "7 clips", "expected": "none"}
BY_CLIP = {"name": "silent", "critical": False, "passed": False, "observed": "1 clips", "expected": "loud"}


def write(
    folder: Path, splits=("train", "train", "test"), quarantined=1, passed=True, suite_passed=True, **changes
) -> Path:
    """A validation folder with one accepted clip for each of `splits`."""
    folder.mkdir()
    clips = [Clip(id=f"c{n}", row_id=f"r{n}", split=split, **CLIP) for n, split in enumerate(splits)]
    write_jsonl(folder / "accepted.jsonl", clips)
    report = {
        "num_clips": len(clips) + quarantined,
        "num_accepted": len(clips),
        "num_quarantined": quarantined,
        "reasons": {"silent": quarantined},
        "checks": [CRITICAL | {"passed": passed}, BY_CLIP],
    } | changes
    suite_checks = [CRITICAL | {"passed": suite_passed}, BY_CLIP]
    report["suites"] = {"quiz": {**report, "checks": suite_checks, "refused": {}}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_valid_data_pass_and_their_hash_is_published(tmp_path):
    validation = write(tmp_path / "validate")
    gate.run(PARAMS, validation, tmp_path / "gate")
    gate_file = json.loads((tmp_path / "gate/gate.json").read_text())
    assert gate_file["passed"] is True
    names = [check["name"] for check in gate_file["checks"]]
    assert names == ["one_split", "report_agrees", "quarantine_share", "train_clips"]
    assert (
        gate_file["data_sha256"] == hashlib.sha256((validation / "accepted.jsonl").read_bytes()).hexdigest()
    )


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
def test_invalid_data_and_reports_stop_the_pipeline(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        gate.run(PARAMS, write(tmp_path / "validate", **changes), tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_every_failed_check_is_listed(tmp_path):
    with pytest.raises(ValueError) as error:
        gate.run(PARAMS, write(tmp_path / "validate", splits=(), passed=False), tmp_path / "gate")
    assert all(name in str(error.value) for name in ["one_split", "quarantine_share", "train_clips"])


@pytest.mark.parametrize("file", ["report.json", "accepted.jsonl"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "null"])
def test_missing_and_malformed_files_stop_the_pipeline(tmp_path, file, content):
    validation = write(tmp_path / "validate")
    if content is None:
        (validation / file).unlink()
    else:
        (validation / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=r"report\.json|accepted"):
        gate.run(PARAMS, validation, tmp_path / "gate")
    assert not (tmp_path / "gate").exists()
