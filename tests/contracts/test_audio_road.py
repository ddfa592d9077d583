"""Recordings are transcribed in one place, the features stage."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src/speech_rba"
DEFINITIONS = {
    f"model/{name}.py" for name in ("audio_tower", "speech_student", "student", "speech_llm", "long_audio")
}
ALLOWED = {
    "stages/features.py",  # every recording, of rows and of suites
    "model/answering.py",  # serving and `talk`
    "server/student.py",
    "server/systems.py",
    "stages/asr_adapter.py",  # pretraining: speech that is made for it and not stored
    "pretraining/asr_adapter.py",
    "pretraining/attribute_clips.py",
}


def transcribes(path: Path) -> bool:
    """Whether a file names `transcribe`, `transcribe_exactly` or `encode_audio`."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [getattr(node, "id", None), getattr(node, "attr", None)]
        names += [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
        if {"transcribe", "transcribe_exactly", "encode_audio"} & set(names):
            return True
    return False


def test_only_the_features_stage_answering_and_pretraining_transcribe():
    users = {f.relative_to(PACKAGE).as_posix() for f in PACKAGE.rglob("*.py") if transcribes(f)}
    assert users - DEFINITIONS <= ALLOWED and {"stages/features.py", "model/answering.py"} <= users
