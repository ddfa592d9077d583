"""The pipeline as it runs every night: in a clone of its own, on the newest commit, leaving a commit of dvc.lock.

The branch `nightly` is the lineage: each of its commits names the data, the parameters and every output by hash. The
clone is made by `prepare` before a worker first needs it; it shares the DVC cache of the project it was cloned from.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import yaml
from annotated_types import Gt
from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed

from flows.pipeline import pipeline
from flows.stages import die_with_parent
from speech_rba.errors import UserError

BRANCH = "nightly"
PARAMS = Path("params.yaml")
CHAMPIONS = Path("work/champions")
REGISTRATION = Path("artifacts/register/registration.json")


def prepare(project: Path, clone: Path) -> None:
    """`clone` is a clone of the project on the branch `nightly`, with the project's DVC cache; twice is as once."""
    if (clone / ".dvc/config.local").exists():
        return
    if not clone.exists():
        git("clone", "-q", str(project), str(clone), where=project)
    git("checkout", "-q", "-B", BRANCH, newest(clone), where=clone)
    cache = ["cache", "dir", "--local", str(project / ".dvc/cache")]
    subprocess.run([sys.executable, "-m", "dvc", *cache], cwd=clone, check=True, stdout=subprocess.DEVNULL)


def newest(clone: Path) -> str:
    """The commit to go on from: the project's branch `nightly` if there is one, else what is checked out there."""
    branches = git("branch", "-r", "--format=%(refname:short)", where=clone).split()
    return f"origin/{BRANCH}" if f"origin/{BRANCH}" in branches else "origin/HEAD"


@flow(name="nightly")
def nightly(seed: int | None = None, timeout_s: Annotated[float, Gt(0)] | None = None) -> State:
    """The newest commit of the project goes through the pipeline; what came out is committed on the branch `nightly`.

    Args:
        seed: of new data, on which alignment goes on from the champion, if there is one; empty keeps the seed of the
            last run, and then only what changed is computed.
        timeout_s: the longest that one stage may take, in seconds; empty for no limit.
    """
    die_with_parent()  # a run without its worker could not be cancelled
    log, clone = get_run_logger(), Path.cwd()
    try:
        update(clone)
        if seed is not None:
            set_seed(seed)
            start_from_champion()
        state = pipeline(timeout_s, return_state=True)
        if state.is_failed() or state.is_crashed():
            return Failed(message=state.message)
        commit = save(clone, state.message)
    except (UserError, subprocess.CalledProcessError) as error:
        return Failed(message=getattr(error, "stderr", None) or str(error))
    log.info("committed %s on the branch %s", commit, BRANCH)
    create_markdown_artifact(f"`{commit}` on the branch `{BRANCH}`: `git show {commit[:12]}`", key="commit")
    tag(commit)
    return Completed(message=f"commit {commit[:12]}; {state.message}")


def update(clone: Path) -> None:
    """The newest commit of the project is merged into the clone; what a killed run left there uncommitted is gone.

    Raises:
        UserError: the project changed the same lines as the branch did.
    """
    git("fetch", "-q", "origin", where=clone)
    git("reset", "-q", "--hard", where=clone)
    try:
        git("merge", "-q", "--no-edit", "origin/HEAD", where=clone)
    except subprocess.CalledProcessError as error:
        git("merge", "--abort", where=clone)
        raise UserError(
            f"the newest commit does not merge into the branch {BRANCH}: in {clone} run `git merge origin/HEAD`, mend "
            f"the conflict and commit; git says: {error.stdout.strip()}"
        ) from error


def set_seed(seed: int) -> None:
    """params.yaml has this seed for the data that is synthesized."""
    text, number = re.subn(r"(?m)^(synthesize:\n  seed:) \d+", rf"\1 {seed}", PARAMS.read_text())
    if number != 1:
        raise UserError(f"{PARAMS} does not begin `synthesize` with its seed: put `seed:` first there")
    PARAMS.write_text(text)


def start_from_champion() -> None:
    """params.yaml has the champion, fetched into work/, as what alignment goes on from."""
    text = PARAMS.read_text()
    values = yaml.safe_load(text)
    if "align" not in values:
        return
    from speech_rba import tracking

    adapter = tracking.fetch_champion(values["register"]["model_name"], CHAMPIONS)
    if adapter is None:
        return
    text, number = re.subn(r"(?m)^(  start_from:) \S+", rf"\1 {adapter}", text)
    if number != 1:
        raise UserError(f"{PARAMS} has no line `start_from:` under `align`: put it there")
    PARAMS.write_text(text)


def save(clone: Path, message: str) -> str:
    """The commit that holds dvc.lock and params.yaml, which the project's branch `nightly` now names."""
    git("add", "dvc.lock", "params.yaml", where=clone)
    if git("status", "--porcelain", "dvc.lock", "params.yaml", where=clone):
        name = ["-c", f"user.name={BRANCH}", "-c", f"user.email={BRANCH}@localhost"]
        git(*name, "commit", "-q", "-m", "Record what a run made", "-m", message, where=clone)
    git("push", "-q", "origin", f"HEAD:{BRANCH}", where=clone)
    return git("rev-parse", "HEAD", where=clone).strip()


def tag(commit: str) -> None:
    """The MLflow run and version that this run registered, or found registered, name the commit."""
    if not REGISTRATION.exists():
        return
    from speech_rba import tracking

    made = json.loads(REGISTRATION.read_text())
    tracking.tag(made["model_name"], made["run_id"], made["version"], "nightly_commit", commit)


def git(*arguments: str, where: Path) -> str:
    """What git prints; subprocess.CalledProcessError when it fails."""
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout
