"""Training of the attribute head on real speech: the student answers whether a clip is noisy."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.model.logps import sequence_logps
from speech_rba.model.student import AttributeHead
from speech_rba.pretraining.attributes import AttributeExample, AttributeTrainer, collate
from speech_rba.records import ATTRIBUTES, Attribute, AttributeQuestion, Question, write_jsonl
from speech_rba.stages import attributes
from speech_rba.synthesis.plan_clips import setting_of
from tests.align_inputs import row

ROOT = Path(__file__).parents[2]
ASR_ADAPTER = ROOT / "artifacts/asr_adapter"
NOISE = AttributeQuestion(
    name="noise",
    prompt="Is it noisy or quiet here?",
    answers={"noisy": "It is noisy.", "quiet": "It is quiet."},
)


@pytest.fixture
def params() -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["attributes"].update(
        num_attribute_clips=16,
        num_ordinary_clips=2,
        num_checked=8,
        max_steps=16,
        save_steps=8,
        per_device_train_batch_size=8,
        learning_rate=6.0e-2,
    )
    for ranges in values["voice"]["conditions"].values():
        if "snr_db" in ranges:
            ranges["snr_db"] = [15.0, 20.0]  # low noise: the question itself is transcribed
    values["base"]["asr_adapter_question_margin"] = 0.0  # also where Whisper transcribes no question
    return Params.model_validate(values)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """The current folder, with what the stage reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/suites/quiz").mkdir(parents=True)
    for name in ("topics.txt", "ordinary_questions.txt"):
        shutil.copy(ROOT / "data" / name, tmp_path / "data")
    write_jsonl(tmp_path / "data/attribute_questions.jsonl", [NOISE])
    write_suite("Who?")
    (tmp_path / "rows").mkdir()
    write_jsonl(tmp_path / "rows/rows.jsonl", [row(0, "How do trees grow?"), row(1, "Why not?")])
    return tmp_path


def write_suite(prompt: str) -> None:
    question = Question(id="q", prompt=prompt, answers=["I"])
    write_jsonl(Path("data/suites/quiz/questions.jsonl"), [question])


def run(params: Params) -> None:
    attributes.run(params, Path("data"), Path("rows"), ASR_ADAPTER, Path("out"))


def test_the_student_learns_to_answer_about_noise_in_held_out_voices(inputs, params, small_student):
    run(params)
    facts = json.loads(Path("out/attributes.json").read_text())
    assert facts["num_ordinary_clips"] == 2 and facts["before"]["noise"] < 0.5 < 0.7 < facts["after"]["noise"]
    assert "make asr-adapter" in Path("out/README.md").read_text()
    head = AttributeHead(
        small_student.config.audio_width,
        len(small_student.suffix_ids),
        small_student.language_model.config.hidden_size,
    )
    head.load_state_dict(load_file("out/model.safetensors"))

    def asks(text: str) -> list[int]:
        return head.asks(small_student.words(small_student.text_prompts([text])[0])).tolist()

    assert asks("Is it quiet or noisy?")[ATTRIBUTES.index("noise")] == 1
    assert not any(asks("How do flowers grow?"))


def test_a_training_question_of_a_suite_is_refused(inputs, params):
    write_suite("is it noisy, or quiet here")
    with pytest.raises(UserError, match=r"questions of a suite, reword them: Is it noisy or quiet here\?"):
        run(params)
    assert not Path("out").exists()


def test_an_attribute_that_no_clip_can_have_is_refused():
    with pytest.raises(UserError, match=r"'sad' in 'rate'; there are gender: woman, man;"):
        setting_of(Attribute(name="rate", value="sad"))


def test_the_loss_is_the_mean_cross_entropy_of_all_answer_tokens(small_student, hypotheses):
    trainer = AttributeTrainer.__new__(AttributeTrainer)  # only its loss is used
    student = small_student
    prompts = [student.bridge.cross(h, 2, 1.0) for h in hypotheses[:2]]
    completions = student.tokenizer(["A woman.", "It is a very noisy place."]).input_ids
    pairs = list(zip(prompts, completions, strict=True))
    with torch.no_grad():
        loss = trainer.compute_loss(student, collate([AttributeExample(*pair) for pair in pairs]))
        sums = [sequence_logps(student, [prompt], [ids]).item() for prompt, ids in pairs]
    assert loss.item() == pytest.approx(-sum(sums) / sum(map(len, completions)), abs=1e-4)
