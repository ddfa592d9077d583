"""Suites of the hub, fetched once into a folder: no run downloads one, and it counts by what it holds."""

import json
import os
import re
import tempfile
from pathlib import Path, PurePosixPath

from speech_rba.errors import UserError
from speech_rba.suites.read import SOURCE

DATASET = re.compile(r"([\w.-]+/[\w.-]+)@([^/\s]+)/([\w.-]+(?:/[\w.-]+)*)")


def fetch_suite(dataset: str, folder: Path) -> list[str]:
    """Names of the Parquet files of `dataset`, OWNER/NAME@REVISION/SUBSET, now in `folder`, beside their commit.

    The folder appears whole or not at all.

    Raises:
        UserError: the name is not of this form, the folder exists, or the hub has no such files or cannot be reached.
    """
    if not (named := DATASET.fullmatch(dataset)):
        raise UserError(
            f"{dataset} must be OWNER/NAME@REVISION/SUBSET; REVISION is a commit or tag of the dataset"
        )
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it, or name another folder")
    import httpx2  # whose errors huggingface_hub passes on
    from huggingface_hub import HfApi, hf_hub_download

    name, revision, subset = named.groups()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi().dataset_info(name, revision=revision)
        paths = [PurePosixPath(file.rfilename) for file in info.siblings or []]
        files = sorted(path for path in paths if path.suffix == ".parquet" and str(path.parent) == subset)
        if not files:
            known = sorted({str(path.parent) for path in paths if path.suffix == ".parquet"})
            raise UserError(
                f"{name} has no subset {subset} of .parquet files at {revision}; it has {', '.join(known)}"
            )
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            for file in files:
                hf_hub_download(name, str(file), repo_type="dataset", revision=info.sha, local_dir=work)
            source = {"dataset": name, "revision": info.sha, "subset": subset}
            (Path(work) / subset / SOURCE).write_text(json.dumps(source, indent=2) + "\n")
            os.rename(Path(work) / subset, folder)
    except (OSError, httpx2.HTTPError) as error:
        cause = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot fetch {dataset} ({cause}); set HF_HUB_OFFLINE=0, and see that the hub has it"
        ) from error
    return [file.name for file in files]
