"""Parts that many tests share: the student, a small student, and hypotheses of speech."""

import os
import sqlite3
import sys
from pathlib import Path

import speech_rba  # noqa: F401  first: it says how threads wait, which torch takes over when it is loaded

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SPEECH_RBA_CACHE", str(Path("work/converted").resolve()))
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: threads that share cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# tests that start dvc or `python` mean this interpreter's
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

import pytest

ROOT = Path(__file__).parents[1]
LONG = (  # minutes, or waiting for servers
    "test_supervisor.py",
    "test_pipeline.py",
    "test_served.py",
    "test_parameters.py",
    "test_rba.py",
    "test_attributes.py",
    "test_align.py",
    "test_speech_llm.py",
    "test_server.py",
)


def pytest_collection_modifyitems(items):
    """Long files start first: one that started last would keep one worker busy and the others idle."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def assets():
    """The assets of params.yaml."""
    from speech_rba.config import load_params

    return load_params(ROOT / "params.yaml").assets


@pytest.fixture(scope="session")
def audio_tower(assets):
    """The unadapted Whisper."""
    from speech_rba.model.audio_tower import load_audio_tower

    return load_audio_tower(assets.audio_tower, None)


def build(language_model: str, assets, audio_tower):
    """A student with one alternative a position; `audio_tower` is not loaded again."""
    from speech_rba.model.student import Student, StudentConfig

    config = StudentConfig(
        language_model, assets.audio_tower, 384, system_prompt=assets.system_prompt, soft_top_k=1
    )
    student = Student(config).eval()
    student.__dict__["audio_tower"] = audio_tower
    return student


@pytest.fixture(scope="session")
def student(assets, audio_tower):
    """The default student before training."""
    return build(assets.language_model, assets, audio_tower)


@pytest.fixture(scope="session")
def small_student(assets, audio_tower, tmp_path_factory):
    """The student with two of the thirty layers of its language model, for tests to which its answers do
    not matter."""
    from transformers import AutoModelForCausalLM

    from speech_rba.assets.gguf import language_model_folder
    from speech_rba.model.language import load_tokenizer

    whole, folder = language_model_folder(assets.language_model), tmp_path_factory.mktemp("small")
    AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=2).save_pretrained(folder)
    load_tokenizer(assets.language_model).save_pretrained(folder)
    return build(str(folder), assets, audio_tower)


@pytest.fixture(scope="session")
def questions():
    from speech_rba.records import Question, read_jsonl

    path = ROOT / "data/suites/spoken_qa/questions.jsonl"
    return [q.prompt for q in read_jsonl(path, Question)]


@pytest.fixture(scope="session")
def hypotheses(audio_tower, questions):
    """The hypotheses of six questions that the neural voice speaks, with 8 alternatives a position."""
    import torch

    from speech_rba.model.audio_tower import transcribe
    from speech_rba.synthesis.voices.voices import speak

    clips = [speak("hibari-heart", q, 1.0, 0.0) for q in questions[:6]]
    return transcribe(audio_tower, clips, top_k=8, max_tokens=48, dtype=torch.float32)


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
