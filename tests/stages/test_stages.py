"""Unfinished work is found again for the same code, parameters and inputs, and for no others."""

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml

from speech_rba import stages
from speech_rba.config import Params, load_params
from speech_rba.stages import publish, workdir

ROOT = Path(__file__).parents[2]
DECLARATION = cache(stages.declaration)  # parsing dvc.yaml takes most of the time of workdir
OTHERS = ("embedder", "suites")  # keys to change in groups whose first values are no numbers
RESUMABLE = ["synthesize", "voice", "suite", "features", "asr_adapter", "attributes", "align", "register"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the code, which a test may change."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "dvc.yaml", copy)
    return copy


@pytest.fixture
def params(tree, tmp_path, monkeypatch) -> Params:
    """The project's parameters, in an empty folder and with the copied code."""
    monkeypatch.setattr(stages, "ROOT", tree)
    monkeypatch.setattr(stages, "declaration", DECLARATION)
    monkeypatch.chdir(tmp_path)
    return load_params(ROOT / "params.yaml")


def test_every_stage_that_keeps_unfinished_work_is_tested_here():
    for file in (ROOT / "src/speech_rba/stages").glob("*.py"):
        if file.name != "__init__.py":
            used = set(re.findall(r'workdir\(\s*"(\w+)"', file.read_text()))
            assert used == ({file.stem} & set(RESUMABLE)), file


@pytest.mark.parametrize("stage", RESUMABLE)
def test_changed_code_inputs_or_packages_give_another_folder(stage, params, tree, tmp_path, monkeypatch):
    source = tmp_path / "input/file"
    source.parent.mkdir()
    source.write_text("a")
    known = workdir(stage, params, source.parent, "word")
    assert workdir(stage, params, source.parent, "word") == known
    for path in (path for path in stages.declaration(stage)["deps"] if path.startswith("src/")):
        file = tree / path
        file = (
            file if file.is_file() else next(f for f in sorted(file.rglob("*.py")) if f.name != "__init__.py")
        )
        before = file.read_text()
        file.write_text(before + "# changed")
        assert workdir(stage, params, source.parent, "word") != known, path
        file.write_text(before)
    assert workdir(stage, params, source.parent, "word") == known
    assert workdir(stage, params, source.parent, "other") != known
    source.write_text("b")
    assert workdir(stage, params, source.parent, "word") != known
    source.write_text("a")
    source.rename(source.with_name("renamed"))
    assert workdir(stage, params, source.parent, "word") != known
    source.with_name("renamed").rename(source)
    monkeypatch.setattr(stages, "installed", lambda: ["torch==0"])
    assert workdir(stage, params, source.parent, "word") != known


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # a changed value need not fit its type here
@pytest.mark.parametrize("stage", RESUMABLE)
def test_only_a_declared_parameter_gives_another_folder(stage, params):
    known = workdir(stage, params)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for group in Params.model_fields:
        field = getattr(params, group)
        name = Params.model_fields[group].alias or group
        key, value = next(
            (k, v) for k, v in values[name].items() if isinstance(v, int | float) or k in OTHERS
        )
        changed = params.model_copy(update={group: field.model_copy(update={key: f"{value} changed"})})
        counts = any(declared in (name, f"{name}.{key}") for declared in stages.declaration(stage)["params"])
        assert (workdir(stage, changed) != known) == counts, f"{name}.{key}"


def test_the_place_of_an_input_does_not_matter(params, tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "rows.jsonl").write_text("{}")
    assert workdir("align", params, tmp_path / "here") == workdir("align", params, tmp_path / "there")


def test_publish_makes_the_output_whole_and_removes_the_unfinished_work(tmp_path):
    unfinished = tmp_path / "work"
    unfinished.mkdir()
    with pytest.raises(KeyboardInterrupt), publish(tmp_path / "out", unfinished) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert unfinished.exists() and not (tmp_path / "out").exists()
    with publish(tmp_path / "out", unfinished) as folder:
        (folder / "whole").write_text("")
    assert not unfinished.exists() and [p.name for p in (tmp_path / "out").iterdir()] == ["whole"]
