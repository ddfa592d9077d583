"""Fetches a suite of the hub into a folder, so that no run depends on the network."""

import json
import os
import re
import tempfile
from pathlib import Path, PurePosixPath

from speech_rba.errors import UserError
from speech_rba.suites.forms import SOURCE

DATASET = re.compile(r"([\w.-]+/[\w.-]+)@([^/\s]+)/([\w.-]+(?:/[\w.-]+)*)")


def fetch_suite(dataset: str, folder: Path) -> list[str]:
    """The names of the Parquet files of `dataset`, OWNER/NAME@REVISION/SUBSET, which are now in `folder`.

    The folder appears whole or not at all, and has the commit of the dataset in source.json.

    Raises:
        UserError: the name has another form, the folder exists, the hub lacks the files or is not reachable.
    """
    if not DATASET.fullmatch(dataset):
        raise UserError(
            f"{dataset} must be OWNER/NAME@REVISION/SUBSET; REVISION is a commit or tag of the dataset"
        )
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it, or name another folder")
    import httpx2  # huggingface_hub raises its errors

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _download(dataset, folder)
    except (OSError, httpx2.HTTPError) as error:
        cause = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot fetch {dataset} ({cause}); set HF_HUB_OFFLINE=0, and see that the hub has it"
        ) from error


def _download(dataset: str, folder: Path) -> list[str]:
    from huggingface_hub import HfApi, hf_hub_download

    named = DATASET.fullmatch(dataset)
    assert named
    name, revision, subset = named.groups()
    info = HfApi().dataset_info(name, revision=revision)
    paths = [PurePosixPath(file.rfilename) for file in info.siblings or []]
    parquet = sorted(path for path in paths if path.suffix == ".parquet")
    files = [path for path in parquet if str(path.parent) == subset]
    if not files:
        subsets = sorted({str(path.parent) for path in parquet})
        raise UserError(
            f"{name} has no subset {subset} of .parquet files at {revision}; it has {', '.join(subsets)}"
        )
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        for file in files:
            hf_hub_download(name, str(file), repo_type="dataset", revision=info.sha, local_dir=work)
        source = {"dataset": name, "revision": info.sha, "subset": subset}
        (Path(work) / subset / SOURCE).write_text(json.dumps(source, indent=2) + "\n")
        os.rename(Path(work) / subset, folder)
    return [file.name for file in files]
