"""Rules of the project as tests: parameters follow stages, dependencies cover imports, arrows hold."""

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/speech_rba"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ARROWS = {  # what a part of the package may import of it
    "params": {"records"},
    "records": set(),
    "assets": {"params"},
    "synthesis": {"assets", "params", "records", "model"},
    "data": {"params", "records"},
    "model": {"assets", "params", "records", "data"},
    "training": {"data", "model", "params", "records"},
    "evaluation": {"data", "model", "params", "records"},
    "tracking": {"evaluation", "params", "records"},
}


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, as `model` or `stages`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names if node.module == "speech_rba")]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("speech_rba.")}
    return found - {"errors"}  # everybody's, and no result depends on it


def test_parameter_groups_are_the_stages_and_the_assets():
    groups = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert groups == {*STAGES, "assets"}


def test_every_stage_takes_the_place_of_its_shell():
    assert all(stage["cmd"].startswith("exec python -m speech_rba.stages.") for stage in STAGES.values())


def test_a_stage_depends_on_every_part_of_the_package_that_it_imports():
    for name, stage in STAGES.items():
        needed = imports(PACKAGE / "stages" / f"{name}.py") - {"stages", "params"}
        declared = {Path(d).stem for d in stage["deps"] if d.startswith("src/speech_rba/")}
        assert needed <= declared, f"{name} imports {needed - declared}, which dvc.yaml does not list"


def test_the_import_arrows_hold():
    for part, allowed in ARROWS.items():
        files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else list((PACKAGE / part).rglob("*.py"))
        for file in files:
            wrong = imports(file) - allowed - {part}
            assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_the_flow_never_imports_torch_or_the_stages():
    for file in (ROOT / "flows").glob("*.py"):
        names = {a.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Import) for a in n.names}
        assert "torch" not in names and imports(file) <= {"params", "tracking"}


def test_only_tracking_and_the_stored_model_import_mlflow():
    users = {f.relative_to(PACKAGE).as_posix() for f in PACKAGE.rglob("*.py") if "import mlflow" in f.read_text()}
    assert users == {"tracking.py", "model/serving.py"}


def test_every_dependency_is_pinned():
    lines = (ROOT / "requirements.lock").read_text().split()
    assert len(lines) > 100 and all("==" in line and "+" not in line for line in lines)
