"""Weights are loaded and hashed as transformers and hashlib do, in less time."""

import os

import torch
from transformers import AutoModelForCausalLM

from speech_rba.assets import resolve
from speech_rba.assets.converted import load_converted


def test_a_converted_model_is_that_of_from_pretrained(small_student):
    folder = resolve.resolve(small_student.config.language_model)
    model = load_converted(AutoModelForCausalLM, folder, torch.float32)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for ours, theirs in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1])
    for (name, ours), (_, theirs) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()


def test_a_file_is_hashed_once_and_anew_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "CONVERTED", tmp_path / "cache")
    monkeypatch.setattr(resolve, "SETTLED_S", -1)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first, times = resolve.remembered_sha256(path), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "sha256", None)
        assert resolve.remembered_sha256(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=times)  # the same size and time of writing
    assert resolve.remembered_sha256(path) == resolve.sha256(path) != first


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "CONVERTED", tmp_path / "cache")
    (tmp_path / "weights").write_bytes(b"one")
    resolve.remembered_sha256(tmp_path / "weights")
    assert not (tmp_path / "cache").exists()
