"""What all stages share: the command line, a folder for unfinished work, and outputs that appear whole."""

import argparse
import ctypes
import errno
import hashlib
import importlib.metadata
import inspect
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from speech_rba.config import Params, load_params
from speech_rba.errors import UserError

ROOT = Path(__file__).parents[3]  # the source tree: the package is installed editable
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
OUTPUTS = ("out", "metrics")  # the arguments of a stage that it writes
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


def main(run: Callable[..., None]) -> None:
    """Calls `run(params, name=path, ...)` with one `--name PATH` for each of its arguments.

    A UserError becomes one line on stderr and exit code 1, and so does a full disk.
    """
    die_with_parent()
    keep_freed_memory()
    set_up_libraries()
    arguments = vars(argument_parser(run).parse_args())
    try:
        check_inputs({name: value for name, value in arguments.items() if name not in OUTPUTS})
        run(load_params(), **arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        sys.exit(
            f"error: no room to write ({error}); free some and run again: finished work is kept in work/"
        )


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends.

    DVC does not stop its stages when it is killed, and a second copy of one would write to the same folder.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_freed_memory() -> None:
    """This process keeps the memory that it frees, and uses it again.

    malloc returns large blocks to the system and gets them back with every page to be cleared, which takes a
    tenth of a training step. The cost is about 0.3 GB of fragments.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def set_up_libraries() -> None:
    """Libraries do not use the network, and log to stdout what a person needs."""
    os.environ.update(
        HF_HUB_OFFLINE=os.environ.get("HF_HUB_OFFLINE", "1"),
        DO_NOT_TRACK="true",
        TOKENIZERS_PARALLELISM="false",
        TRL_EXPERIMENTAL_SILENCE="1",  # rba has its own rollout; the lock file pins the TRL that accepts it
    )
    warnings.simplefilter("ignore", FutureWarning)  # about later versions of pinned libraries
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # it logs the folders that it creates; its warnings reach stderr without this
    logging.getLogger("great_expectations").propagate = False


def argument_parser(run: Callable[..., None]) -> argparse.ArgumentParser:
    """A parser of `--name` for each argument of `run` but the first."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(run))
    _, *parameters = inspect.signature(run).parameters.items()
    for name, parameter in parameters:
        flag, kind = f"--{name.replace('_', '-')}", str if parameter.annotation is str else Path
        if parameter.default is parameter.empty:
            parser.add_argument(flag, type=kind, required=True)
        else:
            parser.add_argument(flag, type=kind, default=parameter.default)
    return parser


def check_inputs(arguments: dict[str, Path | str]) -> None:
    """Every path among a stage's arguments exists.

    Raises:
        UserError: it does not.
    """
    paths = [path for path in arguments.values() if isinstance(path, Path)]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UserError(
            f"{', '.join(missing)} is missing: run the stage that makes it, or all of them with `make run`"
        )


def is_disk_full(error: Exception) -> bool:
    """Whether the disk, a quota or a file's size limit stopped a write; safetensors says so only in its
    message.
    """
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in codes or any(f"os error {code}" in str(error) for code in codes)


@contextmanager
def publish(out: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """An empty folder to write into, which becomes `out` when the block ends without an exception.

    After that, `unfinished`, the folder from `workdir`, is removed.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    if unfinished:
        shutil.rmtree(unfinished)


def workdir(stage: str, params: Params, *inputs: Path | str) -> Path:
    """`work/<stage>/<key>`, created if missing: the unfinished work of a stage, from which a killed run
    resumes.

    The key covers everything for which DVC runs the stage again: the code and parameters that dvc.yaml names,
    the content of the `inputs`, and the version of every installed package. DVC deletes the outputs of a
    stage before it runs, so unfinished work cannot be kept there.
    """
    stage_entry = declaration(stage)
    code = [ROOT / path for path in stage_entry["deps"] if path.startswith("src/")]
    values = params.model_dump(by_alias=True)
    used = {name: reduce(getitem, name.split("."), values) for name in stage_entry["params"]}
    digest = hashlib.sha256(f"{used} {installed()}".encode())
    for item in (*code, *inputs):
        for name, data in contents(item) if isinstance(item, Path) else [(item, b"")]:
            digest.update(f"{name} {len(data)} ".encode())
            digest.update(data)
    folder = Path("work") / stage / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def declaration(stage: str) -> dict[str, Any]:
    """The entry of a stage in dvc.yaml; of a `foreach` stage, the entry of each item."""
    entry = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    return entry.get("do", entry)


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path relative to `path`, bytes) of a file, or of every file below a folder except Python's caches."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if "__pycache__" not in file.parts:
            yield file.relative_to(path).as_posix(), file.read_bytes()


@cache
def installed() -> list[str]:
    """NAME==VERSION of every package, sorted."""
    return sorted({f"{package.name}=={package.version}" for package in importlib.metadata.distributions()})
