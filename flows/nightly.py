"""The pipeline as it runs every night: in a clone, on the newest commit; the result is a commit of RESULTS.

The branch `nightly` is the lineage: each of its commits names the data, the parameters and every output by
hash. The clone is made by `prepare` before a worker first needs it; it shares the DVC cache of the project.
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
# Takes the results while the project has BRANCH checked out: git refuses a push to it.
WAITING = "nightly-waiting"
RESULTS = ("dvc.lock", "metrics")  # what a run writes and Git keeps
# In the clone's git config: branch and commit of the project that ran last, and the clone's commit then
LAST_BRANCH, LAST_COMMIT, CLONE_COMMIT = "speech-rba.branch", "speech-rba.commit", "speech-rba.own"
PARAMS = Path("params.yaml")
CHAMPIONS = Path("work/champions")
REGISTRATION = Path("artifacts/register/registration.json")
SETTINGS = (  # commits need neither a person's name nor their hooks and signatures
    f"user.name={BRANCH}",
    f"user.email={BRANCH}@localhost",
    "core.hooksPath=/dev/null",
    "commit.gpgSign=false",
    "push.gpgSign=false",
)
HOOK_ENV = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # git sets them for a hook: another repository


def prepare(project: Path, clone: Path) -> None:
    """`clone` is a clone of the project on the branch `nightly`, with its DVC cache; a second call changes
    nothing.

    After the project was renamed, or copied together with its clone, the clone follows the new folder.
    """
    if not (clone / ".git").exists():
        options = ["-q", "--origin", "origin", "--template=", "--no-checkout"]
        git("clone", *options, str(project), str(clone), where=project)
    git("remote", "set-url", "origin", str(project), where=clone)
    if not git("branch", "--list", BRANCH, where=clone):
        _, commit = source_branch(clone)
        remote = f"refs/remotes/origin/{BRANCH}"
        start = remote if git("for-each-ref", remote, where=clone) else commit
        git("checkout", "-q", "--no-track", "-B", BRANCH, start, where=clone)
    cache = os.path.relpath(project / ".dvc/cache", clone)  # relative: DVC writes no path that is not ASCII
    command = [sys.executable, "-m", "dvc", "cache", "dir", "--local", cache]
    subprocess.run(command, cwd=clone, check=True, stdout=subprocess.DEVNULL)


def source_branch(clone: Path) -> tuple[str, str]:
    """The branch that the project has checked out, and its newest commit, which the clone now has.

    Where the project has `nightly` or no branch checked out (a detached HEAD), to look at results, it is the
    branch of the last run. Where nothing ran before, the name is HEAD and the commit what is checked out.

    Raises:
        UserError: the project has no commit, or no longer has the branch of the last run.
    """
    git("fetch", "-q", "--prune", "--no-tags", "origin", "+refs/heads/*:refs/remotes/origin/*", where=clone)
    project, head = source(clone), git("ls-remote", "--symref", "origin", "HEAD", where=clone).split()
    if not head:
        raise UserError(f"{project} has no commit on its branch: run `git add .` and `git commit` there")
    name = head[1].removeprefix("refs/heads/") if head[0] == "ref:" else "HEAD"
    if name in ("HEAD", BRANCH, WAITING):
        name = setting(LAST_BRANCH, clone) or name
    if name == "HEAD":
        git("fetch", "-q", "--no-tags", "origin", "HEAD", where=clone)
        return name, git("rev-parse", "FETCH_HEAD", where=clone).strip()
    remote = f"refs/remotes/origin/{name}"
    commit = git("for-each-ref", "--format=%(objectname)", remote, where=clone).strip()
    if not commit:
        raise UserError(
            f"{project} has no branch {name} any more, which ran last: check out the one to go on with"
        )
    return name, commit


def setting(name: str, clone: Path) -> str:
    """A value of the clone's git config; empty where it is not set."""
    return git("config", "--default", "", "--get", name, where=clone).strip()


def source(clone: Path) -> Path:
    """The project that the clone was made from."""
    return Path(git("remote", "get-url", "origin", where=clone).removesuffix("\n"))


@flow(name="nightly")
def nightly(seed: int | None = None, timeout_s: Annotated[float, Gt(0)] | None = None) -> State:
    """The newest commit of the project goes through the pipeline; the result is committed on `nightly`.

    Args:
        seed: of new data, on which alignment goes on from the champion, if there is one; empty keeps the seed
            of the last run, and then only what changed is computed.
        timeout_s: the longest that one stage may take, in seconds; empty for no limit.
    """
    die_with_parent()  # a run without its worker could not be cancelled
    log, clone = get_run_logger(), Path.cwd()
    try:
        log.info(update(clone))
        if files := uncommitted(source(clone)):
            log.warning("not committed in %s, so it does not run: %s", source(clone), files)
        if seed is not None:
            vary(clone, seed)
        state = pipeline(timeout_s, return_state=True)
        outcome = state.message or ""
        if state.is_failed() or state.is_crashed():
            return Failed(message=outcome)
        commit, branch = publish(clone, outcome)
    except UserError as error:
        return Failed(message=str(error))
    where = "" if branch == BRANCH else f" on {branch}, since the project stands on {BRANCH}"
    log.info("committed %s on the branch %s", commit, branch)
    return Completed(message=f"commit {commit[:12]}{where}; {outcome}")


def publish(clone: Path, outcome: str) -> tuple[str, str]:
    """Commit and branch of the result, which the run's artifacts and the registry name."""
    commit, branch = save(clone, outcome)
    create_markdown_artifact(f"`{commit}` on the branch `{branch}`: `git show {commit[:12]}`", key="commit")
    tag(commit)
    return commit, branch


def update(clone: Path) -> str:
    """The clone has the newest commit of the project's branch; the line for the log names both.

    Uncommitted files of a killed run are gone. The clone changes by the difference between the commit that
    ran last and the newest one: another branch, or a rewritten one, takes out of the clone what it does not
    hold.

    Raises:
        UserError: the project changed the same lines as the branch `nightly` did, or git refuses.
    """
    name, commit = source_branch(clone)
    git("reset", "-q", "--hard", where=clone)
    for branch in (BRANCH, WAITING):
        remote = f"refs/remotes/origin/{branch}"
        if git("for-each-ref", remote, where=clone):
            merge(clone, common(clone, remote), remote, f"Take in what was committed on {branch}")
    merge(clone, ran_last(clone, commit), commit, f"Go on with {name}")
    git("config", LAST_COMMIT, commit, where=clone)
    git("config", CLONE_COMMIT, git("rev-parse", "HEAD", where=clone).strip(), where=clone)
    if name not in ("HEAD", BRANCH, WAITING):
        git("config", LAST_BRANCH, name, where=clone)
    return f"runs {name} at {commit[:12]}"


def common(clone: Path, commit: str) -> str:
    """The newest commit that both the clone and `commit` hold."""
    return git("merge-base", "HEAD", commit, where=clone).strip()


def ran_last(clone: Path, commit: str) -> str:
    """The commit of the project that the clone's files come from."""
    last, clone_then = setting(LAST_COMMIT, clone), setting(CLONE_COMMIT, clone)
    shared = common(clone, commit)
    if not last or git("rev-list", "-n", "1", shared, f"^{clone_then}", where=clone):
        return shared  # nothing ran yet, or a person merged the commit here
    return last


def merge(clone: Path, base: str, commit: str, message: str) -> None:
    """The clone holds the changes from `base` to `commit`, committed; of RESULTS it keeps its version.

    Raises:
        UserError: both sides changed the same lines of another file; nothing is merged.
    """
    try:
        git("merge-recursive", base, "--", "HEAD", commit, where=clone)
    except UserError as error:
        conflicts = git("diff", "--name-only", "--diff-filter=U", where=clone).splitlines()
        if not conflicts or not all(name.startswith(RESULTS) for name in conflicts):
            git("reset", "-q", "--hard", where=clone)
            raise UserError(how_to_mend(clone, commit, conflicts) if conflicts else str(error)) from error
        git("checkout", "-q", "--ours", *conflicts, where=clone)
        git("add", *conflicts, where=clone)
    tree = git("write-tree", where=clone).strip()
    is_new = git("rev-list", "-n", "1", commit, "^HEAD", where=clone)
    if is_new or tree != git("rev-parse", "HEAD^{tree}", where=clone).strip():
        parents = ["-p", "HEAD", "-p", commit]
        merged = git("commit-tree", "-m", message, *parents, tree, where=clone).strip()
        git("reset", "-q", "--hard", merged, where=clone)


def how_to_mend(clone: Path, commit: str, conflicts: list[str]) -> str:
    files = " ".join(map(shlex.quote, conflicts))
    take = f"git checkout {git('rev-parse', commit, where=clone)[:12]} -- {files}"
    return (
        f"the newest commit does not merge into the branch {BRANCH}, both changed {', '.join(conflicts)}: "
        f"in {clone} run `{take}` and `git commit -m Mend`, which takes the newest commit's lines, "
        "or merge it there by hand"
    )


def uncommitted(project: Path) -> str:
    """The tracked files of the project that differ from its commit; empty where none does."""
    changed = git("status", "--porcelain", "--untracked-files=no", where=project).splitlines()
    return ", ".join(line[3:] for line in changed)


def vary(clone: Path, seed: int) -> None:
    """params.yaml holds the seed and the champion, committed: a run that fails is that of a commit too."""
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
    """The commit that holds RESULTS and params.yaml, and the branch of the project that now names it.

    The branch is `nightly`, or WAITING while the project has `nightly` checked out; the next run merges
    WAITING.
    """
    commit_files(clone, *RESULTS, "params.yaml", message=["Record what a run made", message])
    trees = git("worktree", "list", "--porcelain", where=source(clone)).splitlines()
    branch = WAITING if f"branch refs/heads/{BRANCH}" in trees else BRANCH
    refs = [f"HEAD:refs/heads/{branch}"]
    has_waiting = git("for-each-ref", f"refs/remotes/origin/{WAITING}", where=clone)
    if branch == BRANCH and has_waiting and f"branch refs/heads/{WAITING}" not in trees:
        refs.append(f":refs/heads/{WAITING}")
    receive = "--receive-pack=git -c core.hooksPath=/dev/null receive-pack"
    git("push", "-q", "--no-verify", receive, "origin", *refs, where=clone)
    commit = git("rev-parse", "HEAD", where=clone).strip()
    git("config", CLONE_COMMIT, commit, where=clone)
    return commit, branch


def commit_files(clone: Path, *names: str, message: list[str]) -> None:
    """A commit holds these files, if they changed; each part of its message is a paragraph."""
    names = tuple(name for name in names if (clone / name).exists())
    git("add", *names, where=clone)
    if git("status", "--porcelain", *names, where=clone):
        paragraphs = [word for part in message for word in ("-m", part)]
        git("commit", "-q", "--no-verify", *paragraphs, where=clone)


def tag(commit: str) -> None:
    """The MLflow run and the registered version of these outputs have the commit as a tag."""
    if not REGISTRATION.exists():
        return
    from speech_rba.registry import versions

    made = json.loads(REGISTRATION.read_text())
    versions.tag(made["model_name"], made["run_id"], made["version"], "nightly_commit", commit)


def git(*arguments: str, where: Path) -> str:
    """What git prints.

    Raises:
        UserError: it fails; the message is what it prints, in one line and without its hints.
    """
    settings = [word for setting in SETTINGS for word in ("-c", setting)]
    env = {name: value for name, value in os.environ.items() if name not in HOOK_ENV}
    env["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", *settings, *arguments]
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        output = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("hint:")]
        raise UserError(f"git {arguments[0]} in {where}: {' '.join(' '.join(output).split())}")
    return done.stdout
