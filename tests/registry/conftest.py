"""Stores of toy versions, made once and copied for each test: a store holds no path, so it may be copied."""

import shutil
import sqlite3
from pathlib import Path

import pytest
import toy

from speech_rba.registry import bundle
from speech_rba.registry.store import connect


@pytest.fixture(scope="session", autouse=True)
def few_requirements():
    """MLflow looks up each requirement whenever it stores or loads a model, a fifth of a second for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "SERVING_NEEDS", {"pandas"})
        yield


@pytest.fixture
def store(project_folder):
    """A client of a store without versions."""
    return connect(toy.NAME)


@pytest.fixture(scope="session")
def stores(tmp_path_factory, empty_store, few_requirements):
    """Folders of stores, one step after the other: a is `candidate`, a is `champion`, b is `challenger`."""
    folder = tmp_path_factory.mktemp("stores")

    def save(name):
        shutil.copytree("mlruns", folder / name)

    with pytest.MonkeyPatch.context() as patch:
        (folder / "work").mkdir()
        patch.chdir(folder / "work")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Path("mlruns").mkdir()
        with sqlite3.connect(empty_store) as source, sqlite3.connect("mlruns/mlflow.db") as target:
            source.backup(target)
        toy.make_version("a", 0.5)
        save("candidate")
        toy.promote(reason="the first")
        save("champion")
        toy.make_version("b", 0.6)
        save("challenger")
    return folder


@pytest.fixture
def begin_with(stores, tmp_path, monkeypatch):
    def begin_with(name):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copytree(stores / name, "mlruns")
        return connect(toy.NAME)

    return begin_with


@pytest.fixture
def candidate(begin_with):
    """A client of a store with version 1 of the candidates, a, right on half of the items."""
    return begin_with("candidate")


@pytest.fixture
def champion(begin_with):
    """A client of a store whose champion is a."""
    return begin_with("champion")


@pytest.fixture
def challenger(begin_with):
    """A client of a store whose champion is a and whose newest candidate is b, right on 60 % of the items."""
    return begin_with("challenger")
