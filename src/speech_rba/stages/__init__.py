"""What every stage shares: its command line, a place for unfinished work, and outputs that appear whole."""

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

import yaml
from safetensors import SafetensorError

from speech_rba.config import Params, load_params
from speech_rba.errors import UserError

ROOT = Path(__file__).parents[3]  # of the source tree, where the package is installed editable
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


def main(run: Callable) -> None:
    """Calls `run(params, name=path, ...)` with one `--name PATH` for each of its arguments.

    A UserError becomes one line on stderr and exit code 1, and so does a full disk. The stage dies with the process
    that started it: DVC does not stop its stages when it is killed, and a second copy would write to the same place.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    keep_freed_memory()
    os.environ.update(
        HF_HUB_OFFLINE=os.environ.get("HF_HUB_OFFLINE", "1"),
        DO_NOT_TRACK="true",
        TOKENIZERS_PARALLELISM="false",
        TRL_EXPERIMENTAL_SILENCE="1",  # rba.py brings its own rollout, and the lock file the TRL that takes it
    )
    warnings.simplefilter("ignore", FutureWarning)  # of what the next version of a pinned library will lack
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger(
        "great_expectations"
    ).propagate = False  # of folders that it makes; warnings reach stderr anyway
    parser = argparse.ArgumentParser(description=inspect.getdoc(run))
    signature = inspect.signature(run).parameters
    for name, parameter in list(signature.items())[1:]:
        kind = str if parameter.annotation is str else Path
        given = {} if parameter.default is parameter.empty else {"default": parameter.default}
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=not given, **given)
    given = vars(parser.parse_args())
    try:
        check_inputs({name: value for name, value in given.items() if name != "out"})
        run(load_params(), **given)
    except UserError as error:
        sys.exit(f"error: {error}")
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        sys.exit(f"error: no room to write ({error}); free some and run again: what is done is kept in work/")


def check_inputs(given: dict[str, Path | str]) -> None:
    """Raises UserError where a path among a stage's arguments does not exist."""
    if missing := [str(path) for path in given.values() if isinstance(path, Path) and not path.exists()]:
        raise UserError(
            f"{', '.join(missing)} is missing: run the stage that makes it, or all of them with `make run`"
        )


def keep_freed_memory() -> None:
    """From here on this process uses again what it frees, where malloc gives large blocks back to the system and gets
    them with every page to be cleared anew: a tenth of a training step. It costs some 0.3 GB in fragments."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def is_disk_full(error: Exception) -> bool:
    """Whether the disk, a quota or a file's size limit stopped a write; safetensors only says so in its message."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in codes or any(f"os error {code}" in str(error) for code in codes)


@contextmanager
def publish(out: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """An empty folder to write into; it becomes `out` when the block ends well, else `out` never appears.

    Then the folder `unfinished`, of `workdir`, is gone: what is published is not gone on from.
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
    """`work/<stage>/<key>`, made if missing: where a stage keeps what a killed run can go on from.

    The key is of all that DVC runs the stage again for: its code and parameters, which dvc.yaml names, its `inputs` (a
    path counts by the content of its files), and the version of every installed package. DVC deletes a stage's outputs
    before it runs, so unfinished work cannot live there.
    """
    declared = declaration(stage)
    code = [ROOT / path for path in declared["deps"] if path.startswith("src/")]
    values = params.model_dump(by_alias=True)
    chosen = {name: reduce(getitem, name.split("."), values) for name in declared["params"]}
    digest = hashlib.sha256(f"{chosen} {installed()}".encode())
    for item in (*code, *inputs):
        for name, data in contents(item) if isinstance(item, Path) else [(item, b"")]:
            digest.update(f"{name} {len(data)} ".encode())
            digest.update(data)
    folder = Path("work") / stage / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def declaration(stage: str) -> dict:
    """What dvc.yaml says of a stage; of one for several items what it says of each."""
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    return declared.get("do", declared)


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path from `path` on, bytes) of a file, or of every file under a folder but Python's caches."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if "__pycache__" not in file.parts:
            yield file.relative_to(path).as_posix(), file.read_bytes()


@cache
def installed() -> list[str]:
    """NAME==VERSION of every package, sorted."""
    return sorted({f"{package.name}=={package.version}" for package in importlib.metadata.distributions()})
