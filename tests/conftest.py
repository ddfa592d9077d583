"""Parts that many tests share: the real student, and what it heard in real speech."""

import os
import sqlite3
import sys
from pathlib import Path

import speech_rba  # noqa: F401  first: it says how threads wait, which torch takes over when it is loaded

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["SPEECH_RBA_CACHE"] = str(Path("work/converted").resolve())
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: threads that share cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# tests that start dvc or `python` mean this interpreter's
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

import pytest


@pytest.fixture(scope="session")
def student():
    """The default student, build_student, that looks at one alternative a position."""
    from speech_rba.config import load_params
    from speech_rba.model.student import Student, StudentConfig

    assets = load_params(Path(__file__).parents[1] / "params.yaml").assets
    config = StudentConfig(
        assets.language_model, assets.audio_tower, 384, system_prompt=assets.system_prompt, soft_top_k=1
    )
    return Student(config).eval()


@pytest.fixture(scope="session")
def small_student(student, tmp_path_factory):
    """The student with two of the thirty layers of its language model, where it does not matter what it answers."""
    from speech_rba.model.student import Student, StudentConfig

    folder = tmp_path_factory.mktemp("small")
    whole = student.language_model
    config = type(whole.config).from_dict(
        whole.config.to_dict() | {"num_hidden_layers": 2, "layer_types": None}
    )
    layers = type(whole)(config)
    layers.load_state_dict(whole.state_dict(), strict=False)
    layers.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return Student(StudentConfig(**student.config.to_dict() | {"language_model": str(folder)})).eval()


@pytest.fixture(scope="session")
def questions():
    from speech_rba.records import Question, read_jsonl

    path = Path(__file__).parents[1] / "data/suites/spoken_qa/questions.jsonl"
    return [q.prompt for q in read_jsonl(path, Question)]


@pytest.fixture(scope="session")
def hypotheses(student, questions):
    """What the audio tower heard in ten questions spoken by the neural voice, with 8 alternatives a position."""
    return spoken_to(student, questions[:10])


def spoken_to(student, questions):
    import torch

    from speech_rba.model.audio_tower import transcribe
    from speech_rba.synthesis.voices.voices import speak

    clips = [speak("hibari-heart", q, 1.0, 0.0) for q in questions]
    return transcribe(student.audio_tower, clips, top_k=8, max_tokens=48, dtype=torch.float32)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An MLflow database with its tables, which takes MLflow seconds to make."""
    from speech_rba.registry.store import connect

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect("unused")
    return folder / "mlruns/mlflow.db"


@pytest.fixture
def project_folder(tmp_path, monkeypatch, empty_store):
    """The current folder is a new one, whose mlruns/ is an empty store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for its process
    Path("mlruns").mkdir()
    with sqlite3.connect(empty_store) as source, sqlite3.connect("mlruns/mlflow.db") as target:
        source.backup(target)
    return tmp_path
