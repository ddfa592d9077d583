"""The acoustic projector's training on real speech: it comes to tell noisy from quiet where that is asked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_ears import row

from speech_rba.model.logps import sequence_logps
from speech_rba.model.student import untrained
from speech_rba.params import Params
from speech_rba.records import TRAITS, Manner, MannerQuestion, Question, write_jsonl
from speech_rba.stages import acoustics
from speech_rba.training.acoustics import AcousticTrainer, Told, collate

ROOT = Path(__file__).parents[2]
NOISE = MannerQuestion(
    trait="noise", prompt="Is it noisy or quiet here?", answers={"noisy": "It is noisy.", "quiet": "It is quiet."}
)


@pytest.fixture
def params() -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["acoustics"].update(num_manner_clips=16, num_ordinary_clips=2, num_checked=8, max_steps=16, save_steps=8)
    values["acoustics"].update(per_device_train_batch_size=8, learning_rate=6.0e-2)
    values["voice"]["snr_db"] = [15.0, 20.0]  # the question itself is heard
    return Params.model_validate(values)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/suites/quiz").mkdir(parents=True)
    for name in ("topics.txt", "other_questions.txt"):
        shutil.copy(ROOT / "data" / name, tmp_path / "data")
    write_jsonl(tmp_path / "data/manners.jsonl", [NOISE])
    write_jsonl(tmp_path / "data/suites/quiz/questions.jsonl", [Question(id="q", prompt="Who?", answers=["I"])])
    (tmp_path / "rows").mkdir()
    write_jsonl(tmp_path / "rows/rows.jsonl", [row(0, "train", "How do trees grow?"), row(1, "train", "Why not?")])
    return tmp_path


def test_it_learns_to_tell_noisy_from_quiet_in_voices_it_never_heard(inputs, params):
    acoustics.run(params, Path("data"), Path("rows"), ROOT / "artifacts/ears", Path("out"))
    facts = json.loads(Path("out/acoustics.json").read_text())
    assert facts["num_ordinary_clips"] == 2 and facts["before"]["noise"] < 0.5 < 0.7 < facts["after"]["noise"]
    assert "make ears" in Path("out/README.md").read_text()
    student = untrained(params.assets, params.base, None, torch.float32)
    student.acoustic_projector.load_state_dict(load_file("out/model.safetensors"))
    asks = lambda text: student.acoustic_projector.asks(student.words(student.read([text])[0])).tolist()  # noqa: E731
    assert asks("Is it quiet or noisy?")[TRAITS.index("noise")] == 1 and not any(asks("How do flowers grow?"))


def test_a_question_of_a_suite_is_refused(inputs, params):
    write_jsonl(
        Path("data/suites/quiz/questions.jsonl"), [Question(id="q", prompt="is it noisy, or quiet here", answers=["I"])]
    )
    with pytest.raises(ValueError, match=r"questions of a suite, reword them: Is it noisy or quiet here\?"):
        acoustics.run(params, Path("data"), Path("rows"), ROOT / "artifacts/ears", Path("out"))
    assert not Path("out").exists()


def test_a_manner_that_does_not_exist_is_refused(params):
    from speech_rba.synthesis.recording import setting_of

    with pytest.raises(ValueError, match=r"no clip can be 'sad' in 'rate'; there are gender: woman, man;"):
        setting_of(Manner(trait="rate", value="sad"))


def test_answers_cost_their_cross_entropy(student, heard):
    """The mean over all tokens of both answers, as the student's own log-probabilities give it one answer at a time."""
    trainer = AcousticTrainer.__new__(AcousticTrainer)  # of which only the loss is looked at
    prompts = [student.bridge.cross(h, 2, 1.0) for h in heard[:2]]
    completions = [student.tokenizer(text).input_ids for text in ("A woman.", "It is a very noisy place.")]
    with torch.no_grad():
        loss = trainer.compute_loss(student, collate([Told(*told) for told in zip(prompts, completions, strict=True)]))
        sums = [sequence_logps(student, [p], [ids]).item() for p, ids in zip(prompts, completions, strict=True)]
    assert loss.item() == pytest.approx(-sum(sums) / sum(map(len, completions)), abs=1e-4)
