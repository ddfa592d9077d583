"""Reads params.yaml and overlays, and changes values in them without touching their comments."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speech_rba.config.params import Group, Params
from speech_rba.errors import UserError


def load_params(path: Path = Path("params.yaml")) -> Params:
    """The checked values of `path`.

    Raises:
        UserError: the file is missing, is no YAML, or a key is unknown, missing, mistyped or repeated.
    """
    return _checked(_read(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML 1.2 file.

    DVC reads and writes that version: `2e-05` is a number in it, and text in YAML 1.1.

    Raises:
        UserError: the file is missing, is no YAML, is no mapping, or names a key twice.
    """
    return _parsed(_read(path), path)


def change_params(path: Path, changes: dict[str, object]) -> None:
    """`path` has the new values, given by dotted name; its comments, order and other values stay.

    The result is checked first and replaces the file as a whole.

    Raises:
        UserError: a name is unknown or the new values are invalid; the file is unchanged.
    """
    content, yaml = _read(path), _editor()
    _parsed(content, path)  # for its error message
    values = yaml.load(content)
    for name, value in changes.items():
        _set(values, name, value)
    text = BytesIO()
    yaml.dump(values, text)
    _checked(text.getvalue(), path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(text.getvalue())
    os.replace(partial, path)


def apply_overlay(overlay: Path, path: Path = Path("params.yaml")) -> None:
    """`path` has the values of `overlay`; the result is checked first."""
    change_params(path, leaves(read_yaml(overlay)))


def leaves(changes: dict[str, Any], group: type[Group] = Params, prefix: str = "") -> dict[str, object]:
    """The values of an overlay by dotted name; a mapping that is no group of parameters is one value."""
    types = {field.alias or name: field.annotation for name, field in group.model_fields.items()}
    flat: dict[str, object] = {}
    for key, value in changes.items():
        inner = types.get(key)
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Group):
            flat |= leaves(value, inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"{path} is missing: run from the project's top folder")
    return path.read_bytes()


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, UnicodeError) as error:
        cause = " ".join(str(error).partition("To suppress this check")[0].split())
        raise UserError(f"{path} is no valid YAML: {cause}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is no mapping of groups to values: it holds {values!r:.100}")
    return values


def _checked(text: bytes, path: Path) -> Params:
    try:
        return Params.model_validate(_parsed(text, path))
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_message, error.errors()))}") from error


def _message(error: ErrorDetails) -> str:
    if not error["loc"]:  # a check of several groups: its message names the keys
        return error["msg"].removeprefix("Value error, ")
    message = f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"
    if isinstance(error["input"], dict):  # a check of a group: its message names the keys
        return message
    return f"{message} (got {error['input']!r})"


def _set(values: dict[str, Any], name: str, value: object) -> None:
    """`values` has the value under the dotted name, which must be there already."""
    *groups, key = name.split(".")
    group: Any = values
    for part in groups:
        group = _value_of(group, part, name)
    _value_of(group, key, name)
    group[key] = value


def _value_of(group: Any, key: str, name: str) -> Any:
    if not isinstance(group, dict) or key not in group:
        allowed = ", ".join(map(str, group)) if isinstance(group, dict) else f"none, {group!r} is a value"
        raise UserError(f"unknown parameter {name}; allowed here: {allowed}")
    return group[key]


def _editor() -> YAML:
    """A YAML reader and writer that keeps comments, quotes, long lines and the word null."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    null = "tag:yaml.org,2002:null"
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar(null, "null"))
    return yaml
