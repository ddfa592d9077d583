"""The files of a stored version: what they are, that they are unchanged, and that they answer as they did.

A version is one folder in the store. Its `artifacts/bundle` holds base/, adapter/, gate.json, scores.json,
answers.jsonl (of the evaluation) and check/ (clips, and the student's answers to them before it was stored).
"""

import hashlib
import importlib.metadata
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema

from speech_rba.errors import UserError
from speech_rba.records import Answer, read_jsonl
from speech_rba.registry.store import REGISTER_AGAIN, refusals

BUNDLE = "artifacts/bundle"  # within a stored model; MLflow sets the first part
BASE = Path("artifacts/base")
TAGS = {
    "method",
    "rank_by",
    "reward_hacking",
    "git_commit",
    "data_sha256",
    "report",
    "model_sha256",
    "base_sha256",
}
BASE_IDENTITY = (
    "model_type",
    "language_model",
    "audio_tower",
    "speech_llm",
    "system_prompt",
    "target_language",
)
SERVING_NEEDS = {
    "torch",
    "transformers",
    "peft",
    "mlflow",
    "pandas",
    "pydantic",
    "av",
    "onnxruntime",
    "soxr",
    "soundfile",
    "scipy",
}


def log_student(bundle: Path, serving: Path) -> str:
    """The id of the model now stored with the open run: the code file `serving` and the folder `bundle`."""
    assert bundle.name == Path(BUNDLE).name, bundle  # MLflow names its copy after the folder
    warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature is complete
    columns = ("answer", "error", "transcript", "no_speech")
    outputs = Schema([ColSpec(DataType.string, name) for name in columns])
    info = mlflow.pyfunc.log_model(
        name="student",
        python_model=str(serving),
        artifacts={"bundle": str(bundle)},
        signature=ModelSignature(Schema([ColSpec(DataType.binary, "audio")]), outputs),
        pip_requirements=serving_requirements(),
    )
    return info.model_id


def serving_requirements() -> list[str]:
    """The pinned requirements of this package that a server of the student needs."""
    requirements = importlib.metadata.requires("speech-rba") or []
    return [line for line in requirements if re.split(r"[^\w-]", line)[0] in SERVING_NEEDS]


@contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """Inside the block a copy of the model at `uri`: what is hashed is what is loaded, from any store.

    Raises:
        UserError: a file of it is missing or cannot be read.
    """
    with TemporaryDirectory() as folder:
        try:
            with refusals():
                model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except UserError:
            raise
        except (MlflowException, OSError) as error:
            raise UserError(not_in_store(uri)) from error
        if model.is_dir() and not any(model.iterdir()):  # MLflow copies nothing of a folder that is not there
            raise UserError(not_in_store(uri))
        yield model


def not_in_store(uri: str) -> str:
    return f"the files of {uri} are not in the store, or cannot be read: {REGISTER_AGAIN}"


def digest(path: Path) -> str:
    """The sha256 of a file, or of the names and contents of all files in a folder; of no bytes if missing."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        # MLflow writes registered_model_meta, and Python __pycache__, into a folder that they read
        if not file.is_file() or file.name == "registered_model_meta" or "__pycache__" in file.parts:
            continue
        if file != path:
            total.update(file.relative_to(path).as_posix().encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def hashes(model: Path) -> dict[str, str]:
    """The sha256 of a fetched model and of its parts, by tag name."""
    bundle = model / BUNDLE
    parts = {"adapter": bundle / "adapter/adapter_model.safetensors", "gate": bundle / "gate.json"}
    parts |= {"base": bundle / "base", "model": model}
    return {f"{name}_sha256": digest(path) for name, path in parts.items()}


def label(version: ModelVersion) -> str:
    return f"{version.name} version {version.version}"


def has_all_tags(version: ModelVersion) -> bool:
    """Whether the register stage made this version or a promotion copied it, and no person by hand."""
    return version.tags.keys() >= TAGS


def check_tags(version: ModelVersion) -> None:
    """Raises UserError where a person made this version in MLflow."""
    if missing := sorted(TAGS - version.tags.keys()):
        raise UserError(
            f"{label(version)} was not made by the register stage, since it has no tags "
            f"{', '.join(missing)}: name another version"
        )


def check_hashes(version: ModelVersion, model: Path) -> dict[str, str]:
    """The hashes of a fetched version, which are those of its tags.

    Raises:
        UserError: they differ from its tags.
    """
    computed = hashes(model)
    if differing := [name for name, value in computed.items() if version.tags.get(name) != value]:
        raise UserError(
            f"{label(version)} was changed after it was registered ({', '.join(differing)} differ from its "
            f"tags): {REGISTER_AGAIN}"
        )
    return computed


def check_answers(model: Path) -> None:
    """Holds when a fetched model, loaded as any user loads it, gives the answers that were stored with it.

    Raises:
        UserError: an answer differs.
    """
    import pandas as pd

    check = model / BUNDLE / "check"
    expected = json.loads((check / "answers.json").read_text())
    audio = pd.DataFrame({"audio": [(check / name).read_bytes() for name in expected]})
    results = mlflow.pyfunc.load_model(str(model)).predict(audio)
    answers, errors = results["answer"], results["error"]
    for (name, before), after, error in zip(expected.items(), answers, errors, strict=True):
        if before != after or error:
            raise UserError(
                f"reloaded, the model answers {error or after!r} to {name} instead of {before!r}: what loads "
                "it differs from what trained it; compare the package versions, then register again"
            )


def verify(version: ModelVersion) -> dict[str, str]:
    """The hashes of a version that passed its gate, is stored unchanged and answers as it did.

    Raises:
        UserError: it fails one of these; the message says which.
    """
    check_tags(version)
    with fetched(f"models:/{version.name}/{version.version}") as model:
        computed = check_hashes(version, model)
        if json.loads((model / BUNDLE / "gate.json").read_text())["passed"] is not True:
            raise UserError(f"{label(version)} did not pass its gate: correct the data, register again")
        check_answers(model)
    return computed


def stored_scores(version: ModelVersion) -> dict:
    """The scores.json that was stored with a version."""
    with fetched(f"models:/{version.name}/{version.version}/{BUNDLE}/scores.json") as file:
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(
                f"the scores.json stored with {label(version)} is broken: {REGISTER_AGAIN}"
            ) from error


def stored_answers(version: ModelVersion) -> list[Answer] | None:
    """The answers to evaluation's items that were stored with a version; None where none can be read.

    Raises:
        UserError: the version was changed after it was registered.
    """
    with fetched(f"models:/{version.name}/{version.version}") as model:
        check_hashes(version, model)
        try:
            return read_jsonl(model / BUNDLE / "answers.jsonl", Answer)
        except (FileNotFoundError, UserError):  # made by older code: none stored, or in another form
            return None


def check_base(version: ModelVersion, stored_base: Path) -> None:
    """Raises UserError where artifacts/base exists and an adapter of `stored_base` does not fit it."""
    if not BASE.exists():
        return
    here, stored = base_identity(BASE), base_identity(stored_base)
    differing = [f"{name} ({stored[name]}, here {here[name]})" for name in here if here[name] != stored[name]]
    if differing:
        raise UserError(
            f"the adapter of {label(version)} was aligned on another base: {', '.join(differing)}; align "
            "without it (nightly without a seed) until a version on this base is champion"
        )


def base_identity(base: Path) -> dict[str, str | None]:
    """What an adapter depends on: the frozen models and the prompt by name, the base's weights by hash."""
    config = json.loads((base / "config.json").read_text())
    weights = hashlib.sha256("".join(digest(file) for file in sorted(base.glob("*.safetensors"))).encode())
    return {name: config.get(name) for name in BASE_IDENTITY} | {"weights": weights.hexdigest()[:12]}
