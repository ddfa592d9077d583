"""The clone that nightly runs in, and what git does there, with real repositories."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows import nightly, stages
from speech_rba.errors import UserError

ROOT = Path(__file__).parents[2]
HOOKS = ("pre-commit", "commit-msg", "pre-merge-commit", "post-checkout", "pre-push", "pre-receive", "update")
HOSTILE = """
[user]
    useConfigOnly = true
[commit]
    gpgSign = true
[gpg]
    program = /nonexistent
[core]
    hooksPath = {hooks}
[init]
    templateDir = {template}
[merge]
    ff = only
[push]
    gpgSign = true
[clone]
    defaultRemoteName = upstream
"""


@pytest.fixture(scope="module", autouse=True)
def machine(tmp_path_factory):
    """A machine without git's user.name, whose hooks and settings refuse all that nightly does."""
    home = tmp_path_factory.mktemp("home")
    for folder in (home / "hooks", home / "template/hooks"):
        folder.mkdir(parents=True)
        for name in HOOKS:
            (folder / name).write_text("#!/bin/sh\necho no >&2\nexit 1\n")
            (folder / name).chmod(0o755)
    (home / "gitconfig").write_text(HOSTILE.format(hooks=home / "hooks", template=home / "template"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("HOME", str(home))
        yield


def git(folder: Path, *arguments: str) -> str:
    """What git prints to a person who has a name and no hooks."""
    settings = (
        "user.name=a",
        "user.email=a@b",
        "commit.gpgSign=false",
        "core.hooksPath=/dev/null",
        "merge.ff=true",
    )
    command = ["git", *(word for value in settings for word in ("-c", value)), *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, name: str, text: str) -> str:
    """The commit that puts `text` into the file."""
    (folder / name).write_text(text)
    git(folder, "add", name)
    git(folder, "commit", "-q", "-m", f"{name}: {text}")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def template(machine, tmp_path_factory) -> Path:
    """A project with one commit, and its clone."""
    folder = tmp_path_factory.mktemp("template") / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / "params.yaml").write_text("a: 1\n")
    git(folder, "add", ".")
    commit(folder, "code.py", "1")
    nightly.prepare(folder, folder / "work/nightly")
    return folder


@pytest.fixture
def project(template, tmp_path) -> Path:
    """A copy of the template, in a folder whose name needs quotes, without the clone."""
    folder = tmp_path / "it's a (pröject)"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("work"))
    return folder


@pytest.fixture
def clone(template, project) -> Path:
    """As `prepare` makes it for the project: to start dvc for each test would take seconds."""
    folder = project / "work/nightly"
    shutil.copytree(template / "work/nightly", folder)
    git(folder, "remote", "set-url", "origin", str(project))
    return folder


def run(clone: Path, result: str) -> tuple[str, str]:
    """Commit and branch of a run whose stages write `result` into dvc.lock."""
    nightly.update(clone)
    (clone / "dvc.lock").write_text(result)
    return nightly.save(clone, "done")


def test_a_run_takes_the_newest_commit_and_leaves_one(project, clone):
    run(clone, "first")
    commit(project, "code.py", "2")
    head, branch = run(clone, "second")
    assert branch == "nightly" and git(project, "rev-parse", "nightly") == head
    assert (
        git(project, "show", "nightly:dvc.lock") == "second"
        and git(project, "show", "nightly:code.py") == "2"
    )
    assert git(project, "log", "-1", "--format=%an <%ae>", "nightly") == "nightly <nightly@localhost>"
    assert run(clone, "second") == (head, "nightly")  # nothing changed, nothing is committed


def test_uncommitted_files_of_a_killed_run_are_gone(project, clone):
    run(clone, "first")
    (clone / "params.yaml").write_text("a: 2\n")
    assert nightly.update(clone).startswith("runs trunk at ")
    assert (clone / "params.yaml").read_text() == "a: 1\n"


def test_a_seed_is_committed_before_the_run_and_kept_after_a_failed_one(project, clone, monkeypatch):
    commit(project, "params.yaml", (ROOT / "params.yaml").read_text())
    nightly.update(clone)
    monkeypatch.chdir(clone)
    monkeypatch.setattr(nightly, "start_from_champion", lambda: None)
    nightly.vary(clone, 7)
    assert git(clone, "status", "--porcelain") == "" and "  seed: 7\n" in git(
        clone, "show", "HEAD:params.yaml"
    )
    commit(project, "code.py", "2")
    nightly.update(clone)
    assert "  seed: 7\n" in (clone / "params.yaml").read_text() and (clone / "code.py").read_text() == "2"


def test_the_branch_that_the_project_has_checked_out_runs(project, tmp_path):
    """`make up` first on a feature branch that never comes to trunk, then trunk goes on."""
    git(project, "checkout", "-q", "-b", "feature")
    commit(project, "feature.py", "x")
    clone = project / "work/nightly"
    nightly.prepare(project, clone)
    run(clone, "first")
    assert (clone / "feature.py").exists()
    git(project, "checkout", "-q", "trunk")
    newest = commit(project, "code.py", "2")
    assert nightly.update(clone) == f"runs trunk at {newest[:12]}"
    assert (clone / "code.py").read_text() == "2" and not (clone / "feature.py").exists()
    git(project, "checkout", "-q", "feature")
    git(project, "merge", "-q", "--no-edit", "trunk")
    nightly.update(clone)
    assert (clone / "code.py").read_text() == "2" and (clone / "feature.py").exists()


def test_a_commit_that_was_reset_is_taken_out_of_nightly(project, clone):
    commit(project, "bad.py", "x")
    run(clone, "first")
    assert (clone / "bad.py").exists()
    git(project, "reset", "-q", "--hard", "HEAD~1")
    run(clone, "second")
    assert not (clone / "bad.py").exists()
    assert git(project, "show", "nightly:dvc.lock") == "second"


def test_while_nightly_is_checked_out_the_last_branch_runs_and_its_commits_wait(project, clone):
    run(clone, "first")
    git(project, "checkout", "-q", "nightly")
    newest = git(project, "rev-parse", "trunk")
    assert nightly.update(clone) == f"runs trunk at {newest[:12]}"
    (clone / "dvc.lock").write_text("second")
    head, branch = nightly.save(clone, "done")
    assert branch == "nightly-waiting" and git(project, "rev-parse", "nightly-waiting") == head
    assert (project / "dvc.lock").read_text() == "first" and git(
        project, "status", "--porcelain"
    ) == "?? work/"
    git(project, "checkout", "-q", "trunk")
    head, branch = run(clone, "third")
    assert branch == "nightly" and git(project, "rev-parse", "nightly") == head
    assert git(project, "branch", "--list", "nightly-waiting") == ""


def test_a_commit_on_nightly_in_the_project_is_kept(project, clone):
    run(clone, "first")
    git(project, "checkout", "-q", "nightly")
    commit(project, "note.md", "x")
    git(project, "checkout", "-q", "trunk")
    head, _ = run(clone, "second")
    assert git(project, "rev-parse", "nightly") == head and git(project, "show", "nightly:note.md") == "x"


def test_with_nightly_checked_out_at_the_first_make_up_nightly_goes_on(project, clone):
    run(clone, "first")
    git(project, "checkout", "-q", "nightly")
    shutil.rmtree(clone)
    nightly.prepare(project, clone)
    run(clone, "second")
    assert git(project, "show", "nightly-waiting:dvc.lock") == "second"


def test_a_detached_head_runs_the_last_branch_or_else_its_commit(project, clone):
    newest = git(project, "rev-parse", "HEAD")
    git(project, "checkout", "-q", "--detach")
    assert nightly.update(clone) == f"runs HEAD at {newest[:12]}"
    loose = commit(project, "code.py", "loose")
    assert (
        nightly.update(clone) == f"runs HEAD at {loose[:12]}" and (clone / "code.py").read_text() == "loose"
    )
    git(project, "checkout", "-q", "trunk")
    nightly.update(clone)
    git(project, "checkout", "-q", "--detach", loose)
    assert nightly.update(clone) == f"runs trunk at {newest[:12]}" and (clone / "code.py").read_text() == "1"


def test_a_deleted_branch_is_named(project, clone):
    git(project, "checkout", "-q", "-b", "feature")
    run(clone, "first")
    git(project, "checkout", "-q", "nightly")
    git(project, "branch", "-q", "-D", "feature")
    with pytest.raises(UserError, match=r"has no branch feature any more.*check out the one to go on with"):
        nightly.update(clone)


@pytest.fixture
def conflicting(project, clone) -> str:
    """The commit of the project that changes the line that a run changed."""
    nightly.update(clone)
    (clone / "params.yaml").write_text("a: 2\n")
    (clone / "dvc.lock").write_text("first")
    nightly.save(clone, "done")
    commit(project, "code.py", "2")
    return commit(project, "params.yaml", "a: 3\n")


def test_a_conflict_is_one_line_that_says_how_to_mend_it(project, clone, conflicting):
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            nightly.update(clone)
        assert "both changed params.yaml" in str(caught.value) and "\n" not in str(caught.value)
        assert git(clone, "status", "--porcelain") == ""
    mend = f"git checkout {conflicting[:12]} -- params.yaml"
    assert f"in {clone} run `{mend}` and `git commit -m Mend`" in str(caught.value)
    git(clone, *mend.split()[1:])
    git(clone, "commit", "-q", "-m", "Mend")
    run(clone, "second")
    assert (clone / "params.yaml").read_text() == "a: 3\n" and (clone / "code.py").read_text() == "2"


def test_a_conflict_that_a_person_merged_by_hand_is_solved(project, clone, conflicting):
    with pytest.raises(UserError, match="or merge it there by hand"):
        nightly.update(clone)
    with pytest.raises(subprocess.CalledProcessError):
        git(clone, "merge", "-q", conflicting)
    (clone / "params.yaml").write_text("a: 4\n")
    git(clone, "commit", "-q", "-a", "--no-edit")
    commit(project, "code.py", "3")
    run(clone, "second")
    assert (clone / "params.yaml").read_text() == "a: 4\n" and (clone / "code.py").read_text() == "3"


def test_a_dvc_lock_that_both_changed_is_no_conflict(project, clone):
    commit(project, "dvc.lock", "of the project")
    run(clone, "first")
    commit(project, "dvc.lock", "of the project, again")
    commit(project, "code.py", "2")
    nightly.update(clone)
    assert (clone / "dvc.lock").read_text() == "first" and (clone / "code.py").read_text() == "2"


def test_a_project_without_a_commit_is_refused(tmp_path):
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(
        UserError, match=r"empty has no commit on its branch: run `git add \.` and `git commit` there"
    ):
        nightly.prepare(tmp_path / "empty", tmp_path / "clone")


def test_uncommitted_files_are_named(project, clone):
    assert nightly.uncommitted(project) == ""
    (project / "code.py").write_text("3")
    assert nightly.uncommitted(nightly.source(clone)) == "code.py"


def test_a_renamed_project_and_its_copy_have_separate_clones(project, clone, tmp_path):
    run(clone, "first")
    renamed = project.rename(tmp_path / "renamed")
    copy = tmp_path / "copy"
    shutil.copytree(renamed, copy, symlinks=True)
    for place, text in ((renamed, "of the renamed"), (copy, "of the copy")):
        commit(place, "code.py", text)
        nightly.prepare(place, place / "work/nightly")
        head, _ = run(place / "work/nightly", text)
        assert git(place, "rev-parse", "nightly") == head and git(place, "show", "nightly:code.py") == text
        with Repo(place / "work/nightly") as repo:
            assert repo.cache.local.path == str(place / ".dvc/cache/files/md5")
    assert git(renamed, "show", "nightly:code.py") == "of the renamed"


def test_git_refusals_are_one_line(project, clone):
    commit(project, "code.py", "2")
    with pytest.raises(UserError) as caught:
        nightly.git("push", "origin", "HEAD:trunk", where=clone)  # it is behind
    assert str(caught.value).startswith(f"git push in {clone}: ")
    assert "\n" not in str(caught.value) and "hint:" not in str(caught.value)


def test_a_repository_of_another_user_is_refused(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "dvc.yaml").touch()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for this
    with pytest.raises(
        UserError, match=r"dubious ownership.*git config --global --add safe\.directory"
    ) as caught:
        stages.check_project()
    assert "\n" not in str(caught.value)
