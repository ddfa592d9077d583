"""params.yaml as a file: YAML 1.2, as DVC writes it, and changed with its comments and order kept."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from speech_rba.config import apply_overlay, change_params, load_params, read_yaml
from speech_rba.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path) -> Path:
    """A copy of the project's params.yaml."""
    copy = tmp_path / "params.yaml"
    copy.write_text((ROOT / "params.yaml").read_text())
    return copy


def changed_lines(path: Path) -> list[str]:
    before = (ROOT / "params.yaml").read_text().splitlines()
    return [line for line in path.read_text().splitlines() if line not in before]


@pytest.mark.parametrize(
    ("written", "value"), [("2e-05", 2e-5), ("2e-5", 2e-5), ("1e3", 1000.0), ("5.0e-7", 5e-7)]
)
def test_any_number_that_dvc_writes_is_a_number(path, written, value):
    text, number = re.subn(r"(sft: .*learning_rate:) [^},]+", rf"\1 {written}", path.read_text())
    assert number == 1
    path.write_text(text)
    assert load_params(path).align.sft.learning_rate == value


def test_a_repeated_key_is_named(path):
    path.write_text(path.read_text().replace("  top_p: 0.95\n", "  top_p: 0.95\n  top_p: 0.9\n"))
    with pytest.raises(UserError, match=r'params.yaml is no valid YAML: .*duplicate key "top_p"') as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"", "holds None"), (b"- 1", r"holds \[1\]"), (b"a: [", "valid YAML"), (b"\xff\xfea", "valid YAML")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, message):
    (tmp_path / "params.yaml").write_bytes(text)
    with pytest.raises(UserError, match=rf"params.yaml is no .*{message}"):
        read_yaml(tmp_path / "params.yaml")


def test_a_change_touches_its_own_line_alone(path):
    change_params(path, {"synthesize.seed": 3, "align.start_from": "work/champions/7#0123456789abcdef"})
    seed, start = changed_lines(path)
    assert seed == "  seed: 3" and start.startswith("  start_from: work/champions/7#0123456789abcdef ")
    comment = "# or FOLDER#HASH of an adapter: nightly runs start from the champion's"
    assert start.endswith(comment)
    params = load_params(path)
    assert (params.synthesize.seed, params.align.start_from) == (3, "work/champions/7#0123456789abcdef")
    change_params(path, {"synthesize.seed": 1, "align.start_from": None})
    assert path.read_text().split() == (ROOT / "params.yaml").read_text().split()


def test_a_file_in_another_order_is_changed_too(path):
    """As hydra leaves it: without comments, the seed not first, start_from written as an empty value."""
    values = yaml.safe_load(path.read_text())
    text = yaml.safe_dump(values, sort_keys=True).replace("start_from: null", "start_from:")
    path.write_text(text)
    change_params(path, {"synthesize.seed": 3, "align.start_from": "x#0123456789abcdef"})
    assert (load_params(path).synthesize.seed, load_params(path).align.start_from) == (
        3,
        "x#0123456789abcdef",
    )


def test_an_invalid_change_leaves_the_file_as_it_was(path):
    for changes, message in (
        ({"synthesize.seed": "three"}, r"synthesize\.seed: .*'three'"),
        ({"synthesize.sede": 3}, r"unknown parameter synthesize\.sede; allowed here: seed, num_instructions"),
        (
            {"synthesize.seed.more": 3},
            r"unknown parameter synthesize\.seed\.more; allowed here: none, 1 is a value",
        ),
    ):
        with pytest.raises(UserError, match=message):
            change_params(path, changes)
    assert path.read_text() == (ROOT / "params.yaml").read_text()
    assert [file.name for file in path.parent.iterdir()] == ["params.yaml"]


def test_an_overlay_keeps_comments_and_all_other_values(path, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("align:\n  sft: {learning_rate: 1e-5}\nsynthesize: {seed: 9}\n")
    apply_overlay(overlay, path)
    seed, sft = changed_lines(path)
    assert seed == "  seed: 9" and "learning_rate: 1e-05}" in sft
    assert load_params(path).align.sft.learning_rate == 1e-5


def test_an_invalid_overlay_is_one_line_on_stderr(path, tmp_path):
    (tmp_path / "overlay.yaml").write_text("gate: {min_train_clips: -1}\n")
    command = [sys.executable, "-m", "speech_rba.config", "overlay.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("error: params.yaml: gate.min_train_clips: ") and done.stderr.count("\n") == 1
    )
