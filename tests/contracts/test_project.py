"""Parameter groups are the stages, dependencies cover imports, and imports have a direction."""

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
NO_RESULT_DEPENDS_ON = {  # values reach a stage through `params`, and these files only pass them on
    *(PACKAGE / name for name in ("errors.py", "stages/__init__.py", "__init__.py")),
    *(PACKAGE / "config").glob("*.py"),
}
ARROWS = {  # the other parts of the package that a part may import
    "records": set(),
    "assets": set(),
    "compute": set(),
    "config": {"assets", "records"},
    "data": {"assets", "config", "records"},
    "suites": {"data", "config", "records"},
    "model": {"assets", "compute", "config", "data", "records"},
    "synthesis": {"assets", "compute", "config", "data", "model", "records"},
    "pretraining": {"alignment", "compute", "config", "data", "model", "records", "synthesis"},
    "alignment": {"assets", "compute", "config", "data", "model", "records"},
    "evaluation": {"alignment", "compute", "config", "data", "model", "records"},
    "report": {"config", "evaluation", "records"},
    "server": {"config", "data", "model", "records", "registry", "suites", "synthesis"},
    "registry": {"config", "evaluation", "model", "data", "records"},
}


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, as `model` or `stages`."""
    parts = set()
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
        parts |= {n.split(".")[1] for n in names if n.startswith("speech_rba.")}
    return parts - {"errors"}  # every part may import it


def closure(path: Path) -> set[Path]:
    """The files of the package that a file imports, directly or through others."""
    files, left = set(), [path]
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
                    if place.exists() and place not in files | {file} | NO_RESULT_DEPENDS_ON:
                        files.add(place)
                        left.append(place)
    return files


def stage_file(stage: dict) -> Path:
    """The file of the module that a stage runs."""
    name = re.search(r"speech_rba\.stages\.(\w+)", stage["cmd"])[1]
    return PACKAGE / "stages" / f"{name}.py"


def test_parameter_groups_are_the_stages_and_the_assets():
    groups = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert groups == {*STAGES, "assets"} - {"features", "suite_features"}  # these have no parameters


def test_every_stage_replaces_its_shell_so_that_a_signal_reaches_it():
    assert all(stage["cmd"].startswith("exec python -m speech_rba.stages.") for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_files_that_it_imports(name):
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
    # `make asr-adapter` runs synthesize with asr_adapter.texts
    others = {"asr_adapter"} if name == "synthesize" else set()
    assert read <= declared | others


def test_each_part_imports_only_its_allowed_parts():
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


def test_only_the_registry_imports_mlflow():
    files = [
        f for f in PACKAGE.rglob("*.py") if re.search(r"^\s*(import|from) mlflow\b", f.read_text(), re.M)
    ]
    assert {f.parent.name for f in files} == {"registry"}


def test_every_dependency_is_pinned():
    lines = (ROOT / "requirements.lock").read_text().split()
    assert len(lines) > 100 and all("==" in line and "+" not in line for line in lines)
