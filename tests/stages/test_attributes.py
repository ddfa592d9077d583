"""The acoustic projector's training on real speech: it comes to tell noisy from quiet where that is asked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_asr_adapter import row

from speech_rba.config import Params
from speech_rba.model.logps import sequence_logps
from speech_rba.model.student import build_student
from speech_rba.pretraining.attributes import AttributeExample, AttributeTrainer, collate
from speech_rba.records import ATTRIBUTES, Attribute, AttributeQuestion, Question, write_jsonl
from speech_rba.stages import attributes

ROOT = Path(__file__).parents[2]
NOISE = AttributeQuestion(
    name="noise",
    prompt="Is it noisy or quiet here?",
    answers={"noisy": "It is noisy.", "quiet": "It is quiet."},
)


@pytest.fixture
def params() -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["attribute_features"].update(
        num_attribute_clips=16, num_ordinary_clips=2, num_checked=8, max_steps=16, save_steps=8
    )
    values["attribute_features"].update(per_device_train_batch_size=8, learning_rate=6.0e-2)
    values["voice"]["snr_db"] = [15.0, 20.0]  # the question itself is heard
    return Params.model_validate(values)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/suites/quiz").mkdir(parents=True)
    for name in ("topics.txt", "ordinary_questions.txt"):
        shutil.copy(ROOT / "data" / name, tmp_path / "data")
    write_jsonl(tmp_path / "data/attribute_questions.jsonl", [NOISE])
    write_jsonl(
        tmp_path / "data/suites/quiz/questions.jsonl", [Question(id="q", prompt="Who?", answers=["I"])]
    )
    (tmp_path / "rows").mkdir()
    write_jsonl(
        tmp_path / "rows/rows.jsonl", [row(0, "train", "How do trees grow?"), row(1, "train", "Why not?")]
    )
    return tmp_path


def test_it_learns_to_tell_noisy_from_quiet_in_voices_it_never_heard(inputs, params):
    attributes.run(params, Path("data"), Path("rows"), ROOT / "artifacts/asr_adapter", Path("out"))
    facts = json.loads(Path("out/attributes.json").read_text())
    assert facts["num_ordinary_clips"] == 2 and facts["before"]["noise"] < 0.5 < 0.7 < facts["after"]["noise"]
    assert "make asr_adapter" in Path("out/README.md").read_text()
    student = build_student(params.assets, params.base, None, torch.float32)
    student.attribute_head.load_state_dict(load_file("out/model.safetensors"))
    asks = lambda text: student.attribute_head.asks(student.words(student.text_prompts([text])[0])).tolist()  # noqa: E731
    assert asks("Is it quiet or noisy?")[ATTRIBUTES.index("noise")] == 1 and not any(
        asks("How do flowers grow?")
    )


def test_a_question_of_a_suite_is_refused(inputs, params):
    write_jsonl(
        Path("data/suites/quiz/questions.jsonl"),
        [Question(id="q", prompt="is it noisy, or quiet here", answers=["I"])],
    )
    with pytest.raises(ValueError, match=r"questions of a suite, reword them: Is it noisy or quiet here\?"):
        attributes.run(
            params, Path("data"), Path("rows"), ROOT / "artifacts/asr_adapter", Path("out")
        )
    assert not Path("out").exists()


def test_a_manner_that_does_not_exist_is_refused(params):
    from speech_rba.synthesis.plan_clips import setting_of

    with pytest.raises(ValueError, match=r"no clip can be 'sad' in 'rate'; there are gender: woman, man;"):
        setting_of(Attribute(name="rate", value="sad"))


def test_answers_cost_their_cross_entropy(student, hypotheses):
    """The mean over all tokens of both answers, as the student's own log-probabilities give it one answer at a time."""
    trainer = AttributeTrainer.__new__(AttributeTrainer)  # of which only the loss is looked at
    prompts = [student.bridge.cross(h, 2, 1.0) for h in hypotheses[:2]]
    completions = [student.tokenizer(text).input_ids for text in ("A woman.", "It is a very noisy place.")]
    with torch.no_grad():
        loss = trainer.compute_loss(
            student, collate([AttributeExample(*told) for told in zip(prompts, completions, strict=True)])
        )
        sums = [
            sequence_logps(student, [p], [ids]).item() for p, ids in zip(prompts, completions, strict=True)
        ]
    assert loss.item() == pytest.approx(-sum(sums) / sum(map(len, completions)), abs=1e-4)
