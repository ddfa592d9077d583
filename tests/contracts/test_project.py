"""Rules of the project as tests: parameters follow stages, dependencies cover imports, arrows hold."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/speech_rba"
STAGES = {
    name: stage.get("do", stage)
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
NO_RESULT_DEPENDS_ON = {
    PACKAGE / name for name in ("errors.py", "config.py", "stages/__init__.py", "__init__.py")
}
ARROWS = {  # what a part of the package may import of it
    "records": set(),
    "assets": set(),
    "compute": set(),
    "config": {"assets", "records"},
    "data": {"assets", "config", "records"},
    "suites": {"data", "config", "records"},
    "model": {"assets", "compute", "config", "data", "records"},
    "synthesis": {"assets", "compute", "config", "model", "records"},
    "pretraining": {"alignment", "compute", "config", "data", "model", "records", "synthesis"},
    "alignment": {"compute", "config", "data", "model", "records"},
    "evaluation": {"alignment", "compute", "config", "data", "model", "records"},
    "report": {"config", "evaluation", "records"},
    "registry": {"config", "evaluation", "model", "data", "records"},
}


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, as `model` or `stages`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                node.module,
                *(f"{node.module}.{a.name}" for a in node.names if node.module == "speech_rba"),
            ]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("speech_rba.")}
    return found - {"errors"}  # everybody's, and no result depends on it


def closure(path: Path) -> set[Path]:
    """The files of the package that a file imports, and those that they import, and so on."""
    found, left = set(), [path]
    while left:
        for node in ast.walk(ast.parse((file := left.pop()).read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in (name for name in names if name.startswith("speech_rba.")):
                stem = PACKAGE.joinpath(*name.split(".")[1:])
                for place in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if place.exists() and place not in found | {file} | NO_RESULT_DEPENDS_ON:
                        found.add(place)
                        left.append(place)
    return found


def stage_file(stage: dict) -> Path:
    """The module that a stage runs, in the source tree."""
    name = re.search(r"speech_rba\.stages\.(\w+)", stage["cmd"])[1]
    return PACKAGE / "stages" / f"{name}.py"


def test_parameter_groups_are_the_stages_and_the_assets():
    groups = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert groups == {*STAGES, "assets"} - {"features", "suite_features"}  # they have nothing to set


def test_every_stage_takes_the_place_of_its_shell():
    assert all(stage["cmd"].startswith("exec python -m speech_rba.stages.") for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_that_it_imports_and_what_that_imports(name):
    stage = STAGES[name]
    places = [ROOT / dep for dep in stage["deps"]]
    needed = {stage_file(stage), *closure(stage_file(stage))} - NO_RESULT_DEPENDS_ON
    missing = {f for f in needed if not any(f == place or f.is_relative_to(place) for place in places)}
    assert not missing, f"dvc.yaml does not list {sorted(str(f.relative_to(ROOT)) for f in missing)}"
    assert "requirements.lock" in stage["deps"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_parameters_that_it_reads(name):
    stage = STAGES[name]
    attributes = re.findall(r"\bparams\.(\w+)", stage_file(stage).read_text())
    read = {group.rstrip("_") for group in attributes} - {"model_copy", "model_dump", "py", "yaml"}
    declared = {param.split(".")[0] for param in stage.get("params", [])}
    others = (
        {"asr_adapter"} if name == "synthesize" else set()
    )  # of the asr_adapter' texts, which `make asr_adapter` asks for
    assert read <= declared | others


def test_the_import_arrows_hold():
    for part, allowed in ARROWS.items():
        files = (
            [PACKAGE / f"{part}.py"]
            if (PACKAGE / f"{part}.py").exists()
            else list((PACKAGE / part).rglob("*.py"))
        )
        for file in files:
            wrong = imports(file) - allowed - {part}
            assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_the_flow_never_imports_torch_or_the_stages():
    for file in (ROOT / "flows").glob("*.py"):
        names = {
            a.name
            for n in ast.walk(ast.parse(file.read_text()))
            if isinstance(n, ast.Import)
            for a in n.names
        }
        assert "torch" not in names and imports(file) <= {"assets", "config", "registry"}


def test_only_tracking_and_the_stored_model_import_mlflow():
    users = {
        f.relative_to(PACKAGE).as_posix() for f in PACKAGE.rglob("*.py") if "import mlflow" in f.read_text()
    }
    assert users == {"registry/tracking.py", "registry/serving.py"}


def test_every_dependency_is_pinned():
    lines = (ROOT / "requirements.lock").read_text().split()
    assert len(lines) > 100 and all("==" in line and "+" not in line for line in lines)
