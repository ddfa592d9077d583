"""Registered versions: how one becomes a candidate, and how it is looked up by number, alias or source."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from speech_rba.registry.bundle import (
    BUNDLE,
    check_answers,
    check_base,
    check_hashes,
    check_tags,
    fetched,
    hashes,
)
from speech_rba.registry.store import REGISTER_AGAIN, connect, refusals

REGISTRATION = Path("artifacts/register/registration.json")


def candidates(model_name: str) -> str:
    """The name of the registered model that candidates are versions of."""
    return f"{model_name}-candidates"


@refusals()
def register(
    model_name: str, run_id: str, model_id: str, description: str, tags: dict[str, str]
) -> ModelVersion:
    """The new candidate for `model_name`, after the stored model gave the answers stored with it.

    It is created with its tags, the hashes among them, and its description.

    Raises:
        UserError: an answer differs; nothing is registered.
    """
    client = mlflow.MlflowClient()
    with fetched(f"models:/{model_id}") as model:
        check_answers(model)
        tags = tags | hashes(model)
    name = candidates(model_name)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = client.get_logged_model(model_id).artifact_location
    return client.create_model_version(name, source, run_id, tags, description=description, model_id=model_id)


def set_candidate(version: ModelVersion) -> None:
    """The alias `candidate` names `version`, which `promote` takes."""
    mlflow.MlflowClient().set_registered_model_alias(version.name, "candidate", version.version)


@refusals()
def tag(model_name: str, run_id: str, version: str, name: str, value: str) -> None:
    """The run and the candidate that it registered have the tag `name`."""
    client = connect(model_name)
    client.set_tag(run_id, name, value)
    client.set_model_version_tag(candidates(model_name), version, name, value)


def registered(run_id: str) -> ModelVersion | None:
    """The version that was registered from this run, if any."""
    return next(iter(mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id}'")), None)


def by_alias(client: mlflow.MlflowClient, model_name: str, alias: str) -> ModelVersion | None:
    """The version with this alias, if any."""
    models = client.search_registered_models(f"name = '{model_name}'")
    number = models[0].aliases.get(alias) if models else None
    return client.get_model_version(model_name, number) if number else None


def by_number(client: mlflow.MlflowClient, model_name: str, number: str) -> ModelVersion | None:
    """The version with this number, if any."""
    versions = client.search_model_versions(f"name = '{model_name}'")
    return next((version for version in versions if str(version.version) == number), None)


def copy_of(client: mlflow.MlflowClient, model_name: str, candidate: ModelVersion) -> ModelVersion | None:
    """The newest version of `model_name` that is a copy of `candidate`, if any."""
    source = f"models:/{candidate.name}/{candidate.version}"
    copies = [v for v in client.search_model_versions(f"name = '{model_name}'") if v.source == source]
    return max(copies, key=lambda version: int(version.version), default=None)


def numbers_of(client: mlflow.MlflowClient, model_name: str) -> list[int]:
    """The numbers of all versions of a model, ascending."""
    return sorted(int(v.version) for v in client.search_model_versions(f"name = '{model_name}'"))


def no_candidate(client: mlflow.MlflowClient, model_name: str) -> str:
    """Why there is no newest candidate, and what to do."""
    name = candidates(model_name)
    if not client.search_registered_models(f"name = '{name}'"):
        if REGISTRATION.exists():
            return f"{name} was deleted in MLflow, or registered on another server: {REGISTER_AGAIN}"
        return "nothing is registered yet: run `make run`"
    left = numbers_of(client, name)
    if not left:
        return f"all versions of {name} were deleted in MLflow: {REGISTER_AGAIN}"
    return (
        f"the newest version of {name} was deleted in MLflow; left: {', '.join(map(str, left))}; name one, "
        f"as in `speech-rba promote {left[-1]}`, or {REGISTER_AGAIN}"
    )


@contextmanager
def fetched_version(model_name: str, which: str) -> Iterator[tuple[ModelVersion, Path]]:
    """Inside the block a version and a copy of its bundle, with the hashes of its tags.

    `which` is champion, previous, candidate, or the number of a candidate.

    Raises:
        UserError: there is no such version, a person made it in MLflow, or it was changed.
    """
    with refusals():
        client = connect(model_name)
        name = model_name if which in ("champion", "previous") else candidates(model_name)
        version = by_number(client, name, which) if which.isdigit() else by_alias(client, name, which)
    if version is None:
        numbers = ", ".join(map(str, numbers_of(client, candidates(model_name)))) or "none"
        raise UserError(
            f"{name} has no {'version ' if which.isdigit() else ''}{which}; candidates: {numbers}; name "
            "champion, previous, candidate or the number of a candidate"
        )
    check_tags(version)
    with fetched(f"models:/{version.name}/{version.version}") as model:
        check_hashes(version, model)
        yield version, model / BUNDLE


@refusals()
def fetch_champion(model_name: str, folder: Path) -> Path | None:
    """The champion's adapter in `folder/<version>`, fetched once; None without a champion.

    Raises:
        UserError: it was changed after it was registered, or aligned on another base than artifacts/base.
    """
    champion = by_alias(connect(model_name), model_name, "champion")
    if champion is None:
        return None
    check_tags(champion)
    out = folder / str(champion.version)
    with fetched(f"models:/{model_name}/{champion.version}") as model:
        check_hashes(champion, model)
        check_base(champion, model / BUNDLE / "base")
        if not out.exists():
            partial = out.with_name(f".{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(model / BUNDLE / "adapter", partial)
            os.replace(partial, out)
    return out
