"""The pipeline as it runs every night: in a clone of its own, on the newest commit, leaving one of dvc.lock.

The branch `nightly` is the lineage: each of its commits names the data, the parameters and every output by
hash. The clone is made by `prepare` before a worker first needs it; it shares the DVC cache of the project it
was cloned from.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Gt
from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed

from flows.pipeline import pipeline
from flows.stages import die_with_parent
from speech_rba.config import change_params, read_yaml
from speech_rba.errors import UserError

BRANCH = "nightly"
WAITING = (
    "nightly-waiting"  # what was made while the project stands on BRANCH, which git then does not let move
)
# In the clone's git config: branch and commit of the project that ran last, and the clone's own commit then
IN_USE, LAST, OWN = "speech-rba.branch", "speech-rba.commit", "speech-rba.own"
PARAMS = Path("params.yaml")
CHAMPIONS = Path("work/champions")
REGISTRATION = Path("artifacts/register/registration.json")
SETTINGS = (  # nobody is asked who commits here; what a person set up for commits of their own takes no part
    *(f"user.{key}={value}" for key, value in {"name": BRANCH, "email": f"{BRANCH}@localhost"}.items()),
    "core.hooksPath=/dev/null",
    "commit.gpgSign=false",
    "push.gpgSign=false",
)
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # the repository in which git started this process


def prepare(project: Path, clone: Path) -> None:
    """`clone` is a clone of the project on the branch `nightly`, with its DVC cache; twice is as once.

    A project that was renamed, or copied together with its clone, is the one that the clone then follows.
    """
    if not (clone / ".git").exists():
        plainly = ["-q", "--origin", "origin", "--template=", "--no-checkout"]
        git("clone", *plainly, str(project), str(clone), where=project)
    git("remote", "set-url", "origin", str(project), where=clone)
    if not git("branch", "--list", BRANCH, where=clone):
        _, commit = in_use(clone)
        known = f"refs/remotes/origin/{BRANCH}"
        begin = known if git("for-each-ref", known, where=clone) else commit
        git("checkout", "-q", "--no-track", "-B", BRANCH, begin, where=clone)
    cache = os.path.relpath(project / ".dvc/cache", clone)  # relative: DVC writes no path that is not ASCII
    command = [sys.executable, "-m", "dvc", "cache", "dir", "--local", cache]
    subprocess.run(command, cwd=clone, check=True, stdout=subprocess.DEVNULL)


def in_use(clone: Path) -> tuple[str, str]:
    """The branch that the project stands on, and its newest commit, which the clone now has.

    Where it stands on none (a detached HEAD) or on `nightly`, to look at what was made, it is the branch of the
    run before; where there was none, the name is HEAD and the commit what is checked out.

    Raises:
        UserError: the project has no commit, or the branch of the run before is gone from it.
    """
    git("fetch", "-q", "--prune", "--no-tags", "origin", "+refs/heads/*:refs/remotes/origin/*", where=clone)
    project, head = source(clone), git("ls-remote", "--symref", "origin", "HEAD", where=clone).split()
    if not head:
        raise UserError(f"{project} has no commit on its branch: run `git add .` and `git commit` there")
    name = head[1].removeprefix("refs/heads/") if head[0] == "ref:" else "HEAD"
    if name in ("HEAD", BRANCH, WAITING):
        name = setting(IN_USE, clone) or name
    if name == "HEAD":
        git("fetch", "-q", "--no-tags", "origin", "HEAD", where=clone)
        return name, git("rev-parse", "FETCH_HEAD", where=clone).strip()
    found = git("for-each-ref", "--format=%(objectname)", f"refs/remotes/origin/{name}", where=clone).strip()
    if not found:
        raise UserError(
            f"{project} has no branch {name} any more, which ran before: check out the one to go on with"
        )
    return name, found


def setting(name: str, clone: Path) -> str:
    """What the clone's git config says under this name; empty where it says nothing."""
    return git("config", "--default", "", "--get", name, where=clone).strip()


def source(clone: Path) -> Path:
    """The project that it was cloned from."""
    return Path(git("remote", "get-url", "origin", where=clone).removesuffix("\n"))


@flow(name="nightly")
def nightly(seed: int | None = None, timeout_s: Annotated[float, Gt(0)] | None = None) -> State:
    """The newest commit of the project goes through the pipeline; what came out is committed on `nightly`.

    Args:
        seed: of new data, on which alignment goes on from the champion, if there is one; empty keeps the seed
            of the last run, and then only what changed is computed.
        timeout_s: the longest that one stage may take, in seconds; empty for no limit.
    """
    die_with_parent()  # a run without its worker could not be cancelled
    log, clone = get_run_logger(), Path.cwd()
    try:
        log.info(update(clone))
        if left := uncommitted(source(clone)):
            log.warning("not committed in %s, so it does not run: %s", source(clone), left)
        if seed is not None:
            vary(clone, seed)
        state = pipeline(timeout_s, return_state=True)
        if state.is_failed() or state.is_crashed():
            return Failed(message=state.message)
        commit, place = save(clone, state.message)
        create_markdown_artifact(
            f"`{commit}` on the branch `{place}`: `git show {commit[:12]}`", key="commit"
        )
        tag(commit)
    except UserError as error:
        return Failed(message=str(error))
    where = "" if place == BRANCH else f" on {place}, since the project stands on {BRANCH}"
    log.info("committed %s on the branch %s", commit, place)
    return Completed(message=f"commit {commit[:12]}{where}; {state.message}")


def update(clone: Path) -> str:
    """The newest commit of the branch in use is in the clone, which is what it then says.

    What a killed run left there uncommitted is gone. What lies between the commit that ran last and this one is
    what changes: so another branch, or one that was rewritten, takes out what it does not hold.

    Raises:
        UserError: the project changed the same lines as the branch `nightly` did, or git refuses.
    """
    name, commit = in_use(clone)
    git("reset", "-q", "--hard", where=clone)
    for branch in (BRANCH, WAITING):
        known = f"refs/remotes/origin/{branch}"
        if git("for-each-ref", known, where=clone):
            merge(clone, common(clone, known), known, f"Take in what was committed on {branch}")
    merge(clone, ran_last(clone, commit), commit, f"Go on with {name}")
    git("config", LAST, commit, where=clone)
    git("config", OWN, git("rev-parse", "HEAD", where=clone).strip(), where=clone)
    if name not in ("HEAD", BRANCH, WAITING):
        git("config", IN_USE, name, where=clone)
    return f"runs {name} at {commit[:12]}"


def common(clone: Path, commit: str) -> str:
    """The newest commit that both the clone and `commit` hold."""
    return git("merge-base", "HEAD", commit, where=clone).strip()


def ran_last(clone: Path, commit: str) -> str:
    """The commit of the project that the clone's files come from."""
    last, own, both = setting(LAST, clone), setting(OWN, clone), common(clone, commit)
    if not last or git("rev-list", "-n", "1", both, f"^{own}", where=clone):
        return both  # nothing ran yet, or a person merged it here
    return last


def merge(clone: Path, base: str, commit: str, message: str) -> None:
    """What changed from `base` to `commit` is in the clone, committed; of dvc.lock, which runs write, its own.

    Raises:
        UserError: both changed the same lines of another file; nothing is merged.
    """
    try:
        git("merge-recursive", base, "--", "HEAD", commit, where=clone)
    except UserError as error:
        both = git("diff", "--name-only", "--diff-filter=U", where=clone).splitlines()
        if both != ["dvc.lock"]:
            git("reset", "-q", "--hard", where=clone)
            raise UserError(conflict(clone, commit, both) if both else str(error)) from error
        git("checkout", "-q", "--ours", "dvc.lock", where=clone)
        git("add", "dvc.lock", where=clone)
    tree, new = (
        git("write-tree", where=clone).strip(),
        git("rev-list", "-n", "1", commit, "^HEAD", where=clone),
    )
    if new or tree != git("rev-parse", "HEAD^{tree}", where=clone).strip():
        parents = ["-p", "HEAD", "-p", commit]
        made = git("commit-tree", "-m", message, *parents, tree, where=clone).strip()
        git("reset", "-q", "--hard", made, where=clone)


def conflict(clone: Path, commit: str, both: list[str]) -> str:
    take = f"git checkout {git('rev-parse', commit, where=clone)[:12]} -- {' '.join(map(shlex.quote, both))}"
    return (
        f"the newest commit does not merge into the branch {BRANCH}, both changed {', '.join(both)}: "
        f"in {clone} run `{take}` and `git commit -m Mend`, which takes the newest commit's, or merge it there by hand"
    )


def uncommitted(project: Path) -> str:
    """The tracked files of the project that differ from its commit; empty where none does."""
    changed = git("status", "--porcelain", "--untracked-files=no", where=project).splitlines()
    return ", ".join(line[3:] for line in changed)


def vary(clone: Path, seed: int) -> None:
    """params.yaml has the seed and the champion, committed: what runs is a commit's, also if it fails."""
    change_params(PARAMS, {"synthesize.seed": seed})
    start_from_champion()
    commit_files(clone, "params.yaml", message=[f"Begin with the seed {seed}"])


def start_from_champion() -> None:
    """params.yaml has the champion's adapter, fetched into work/, and its hash: alignment goes on from it."""
    from speech_rba.registry.bundle import digest
    from speech_rba.registry.versions import fetch_champion

    adapter = fetch_champion(read_yaml(PARAMS)["register"]["model_name"], CHAMPIONS)
    if adapter is not None:
        content = digest(adapter / "adapter_model.safetensors")[:16]
        change_params(PARAMS, {"align.start_from": f"{adapter}#{content}"})


def save(clone: Path, message: str) -> tuple[str, str]:
    """The commit that holds dvc.lock and params.yaml, and the branch of the project that now names it.

    That is `nightly`, or WAITING while `nightly` is checked out in the project: the next run brings it there.
    """
    commit_files(clone, "dvc.lock", "params.yaml", message=["Record what a run made", message])
    trees = git("worktree", "list", "--porcelain", where=source(clone)).splitlines()
    place, waiting = (
        WAITING if f"branch refs/heads/{BRANCH}" in trees else BRANCH,
        f"refs/remotes/origin/{WAITING}",
    )
    refs = [f"HEAD:refs/heads/{place}"]
    if (
        place == BRANCH
        and f"branch refs/heads/{WAITING}" not in trees
        and git("for-each-ref", waiting, where=clone)
    ):
        refs.append(f":refs/heads/{WAITING}")
    receive = "--receive-pack=git -c core.hooksPath=/dev/null receive-pack"
    git("push", "-q", "--no-verify", receive, "origin", *refs, where=clone)
    made = git("rev-parse", "HEAD", where=clone).strip()
    git("config", OWN, made, where=clone)
    return made, place


def commit_files(clone: Path, *names: str, message: list[str]) -> None:
    """A commit holds these files as they are, where they changed; each part of its message is a paragraph."""
    git("add", *names, where=clone)
    if git("status", "--porcelain", *names, where=clone):
        paragraphs = [word for part in message for word in ("-m", part)]
        git("commit", "-q", "--no-verify", *paragraphs, where=clone)


def tag(commit: str) -> None:
    """The MLflow run and version that this run registered, or found registered, name the commit."""
    if not REGISTRATION.exists():
        return
    from speech_rba.registry import versions

    made = json.loads(REGISTRATION.read_text())
    versions.tag(made["model_name"], made["run_id"], made["version"], "nightly_commit", commit)


def git(*arguments: str, where: Path) -> str:
    """What git prints.

    Raises:
        UserError: it fails; the message is what it says, in one line and without its hints.
    """
    settings = [word for setting in SETTINGS for word in ("-c", setting)]
    env = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK} | {
        "GIT_OPTIONAL_LOCKS": "0"
    }
    command = ["git", *settings, *arguments]
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("hint:")]
        raise UserError(f"git {arguments[0]} in {where}: {' '.join(' '.join(said).split())}")
    return done.stdout
