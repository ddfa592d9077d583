"""The register stage: the best method becomes a candidate only if it answers as before after a reload."""

import json
import sys
import types
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile

from speech_rba.config import load_params
from speech_rba.errors import UserError
from speech_rba.records import Answer, Clip, read_jsonl, write_jsonl
from speech_rba.registry import bundle, store, versions
from speech_rba.stages import register

ROOT = Path(__file__).parents[2]
FOLDERS = ("voice", "validation", "gate", "base", "methods", "evaluation", "report")


class Result:
    def __init__(self, response):
        self.response, self.hypothesis, self.no_speech = response, None, None


def load_answerer(base, adapter):
    """A student in place of the real one: it answers with its weights and the number of samples."""
    weights = (base / "model.safetensors").read_text() + (adapter / "adapter_model.safetensors").read_text()

    def answer(clips):
        if any(len(clip) > 480_000 for clip in clips):
            raise UserError("a clip is too long")
        return [Result(f"{weights} {len(clip)}") for clip in clips]

    return answer


RANK_BY = "alignment/all/token_f1"
CLIP = {
    "row_id": "r",
    "suite": "alignment",
    "transcript": "hi",
    "voice": "v",
    "engine": "e",
    "heldout_voice": False,
    "rate": 1,
    "pitch_semitones": 0,
    "level_db": -20,
    "condition": "clean",
    "strength": {},
    "heldout_condition": False,
    "spoken": "x",
    "seed": 0,
    "duration_s": 0.1,
    "sha256": "0",
}
CHANGED = {"num_check_clips": 2, "rank_by": RANK_BY}


@pytest.fixture
def pipeline(project_folder, monkeypatch):
    """The arguments of `run`, after the stages before it, with three test clips."""
    params = load_params(ROOT / "params.yaml")
    params = params.model_copy(update={"register_": params.register_.model_copy(update=CHANGED)})
    student = types.ModuleType("speech_rba.model.answering")
    student.load_answerer = load_answerer
    monkeypatch.setitem(sys.modules, "speech_rba.model.answering", student)
    for name in (*FOLDERS, "methods/sft", "methods/rba"):
        Path(name).mkdir()
    write_clips(Path("voice"), Path("validation/accepted.jsonl"))
    write_gate()
    Path("base/model.safetensors").write_text("base")
    Path("report/index.html").write_text("<p>report")
    for method in ("sft", "rba"):
        write_method(Path("methods") / method)
    write_scores({"sft": 0.3, "rba": 0.4}, validation={"sft": 0.35, "rba": 0.45})
    write_answers({"base": "one", "sft": "one", "rba": "one"}, {"base": "one", "sft": "one", "rba": "other"})
    return {"params": params, "out": Path("registered")} | {name: Path(name) for name in FOLDERS}


def write_gate():
    check = {
        "name": "num_train_clips",
        "critical": True,
        "passed": True,
        "observed": 400,
        "expected": ">= 300",
    }
    Path("gate/gate.json").write_text(
        json.dumps({"passed": True, "checks": [check], "data_sha256": "d" * 64})
    )


def write_method(folder):
    (folder / "adapter_model.safetensors").write_text(folder.name)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "training.json").write_text(json.dumps({"method": folder.name, "minutes": 1.5}))
    row = {"step": 1, "phase": "sft", "minutes": 0.5, "loss": 2.0}
    (folder / "log.jsonl").write_text(json.dumps(row) + "\n")


def write_clips(folder, accepted):
    clips = []
    for number, split in enumerate(("train", "test", "test", "test")):
        path = f"{number}.flac"
        soundfile.write(folder / path, np.zeros(1600 * (number + 1), np.float32), 16_000)
        clips.append(Clip(**CLIP, id=str(number), split=split, path=path))
    write_jsonl(accepted, clips)


def write_scores(test, validation):
    row = {"suite": "alignment", "condition": "all", "metric": "token_f1"}
    rows = [row | {"system": system, "value": value} for system, value in test.items()]
    rows.append(row | {"system": "text", "condition": "text", "value": 0.5})
    validation_rows = [row | {"system": system, "value": value} for system, value in validation.items()]
    scores = {"systems": ["text", *test], "scores": rows, "validation": validation_rows}
    scores |= {"recovery": [], "cost": [], "wer": [], "people": []}
    failed_check = {
        "name": "length_drift",
        "critical": True,
        "passed": False,
        "observed": 3.5,
        "expected": "at most 1.5",
    }
    scores["reward_hacking"] = {method: [failed_check] for method in test | validation}
    Path("evaluation/scores.json").write_text(json.dumps(scores))


def write_answers(*responses):
    """The systems' responses to the second test clip and to the third, beside answers to other items."""
    fields = {"suite": "alignment", "row_id": "r", "condition": "clean", "voice": "v", "heldout_voice": False}
    fields |= {"snr_db": None, "judge_hypothesis": "hi", "metrics": {}}
    validation = fields | {"clip_id": "7", "split": "validation"}
    answers = []
    for number, by_system in enumerate(responses, 2):
        for system, response in by_system.items():
            answers.append(Answer(**fields, clip_id=str(number), system=system, response=response))
    for method in ("sft", "rba"):
        answers.append(Answer(**fields | {"condition": "text"}, clip_id="", system=method, response="read"))
        answers.append(Answer(**validation, system=method, response="validated"))
    answers.append(Answer(**validation, system="base", response="one"))
    other = fields | {"suite": "qa", "clip_id": "2"}  # another suite may have the same clip ids
    answers += [Answer(**other, system=system, response=system) for system in ("base", "sft", "rba")]
    write_jsonl(Path("evaluation/answers.jsonl"), answers)


def candidates():
    return store.connect("speech-rba").search_model_versions("name = 'speech-rba-candidates'")


def test_the_best_method_becomes_the_candidate(pipeline):
    register.run(**pipeline)
    written = json.loads(Path("registered/registration.json").read_text())
    assert (written["version"], written["method"], written["checked_clips"]) == ("1", "rba", 2)
    # sha256 of "rba", by sha256sum
    assert written["adapter_sha256"] == "999194618eee5af7053722c3126f412a5a43791953b8afd07617c4d349722b25"
    version = mlflow.MlflowClient().get_model_version_by_alias("speech-rba-candidates", "candidate")
    assert version.tags["data_sha256"] == "d" * 64
    assert version.tags["report"] == f"runs:/{written['run_id']}/report/index.html"
    assert version.tags["reward_hacking"] == "length_drift"
    assert (version.tags["validation_score"], version.tags["test_score"]) == ("0.45", "0.4")
    assert (
        "Method **rba**, chosen by alignment/all/token_f1 on validation: 0.450, on test 0.400"
        in version.description
    )
    assert "| length_drift | True | False | 3.5 | at most 1.5 |" in version.description
    assert "| alignment token_f1 | 0.500 | 0.300 | 0.400 |" in version.description
    assert "| num_train_clips | True | True | 400 | >= 300 |" in version.description
    check_run(written["run_id"])
    check_stored_files()


def check_run(run_id):
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["align.rba.num_generations"] == "4"
    assert run.data.metrics["rba/alignment/all/token_f1"] == 0.4
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/report/index.html") == "<p>report"


def check_stored_files():
    student = mlflow.pyfunc.load_model("models:/speech-rba-candidates@candidate")
    audio = pd.DataFrame({"audio": [Path("voice/1.flac").read_bytes()]})
    assert student.predict(audio).to_dict("records") == [
        {"answer": "baserba 3200", "error": "", "transcript": "", "no_speech": ""}
    ]
    with bundle.fetched("models:/speech-rba-candidates/1") as model:
        stored = read_jsonl(model / bundle.BUNDLE / "answers.jsonl", Answer)
    assert [(a.suite, a.clip_id, a.condition, a.response) for a in stored] == [
        ("alignment", "2", "clean", "one"),
        ("alignment", "3", "clean", "other"),
        ("alignment", "", "text", "read"),
        ("qa", "2", "clean", "rba"),
    ]
    assert not [p for p in Path("mlruns/artifacts").rglob("*") if p.suffix in {".pkl", ".pt", ".bin"}]


def test_a_recording_that_cannot_be_answered_has_an_error_and_the_others_an_answer(pipeline):
    register.run(**pipeline)
    student = mlflow.pyfunc.load_model("models:/speech-rba-candidates@candidate")
    soundfile.write("long.flac", np.zeros(480_001, np.float32), 16_000)
    good, long = Path("voice/1.flac").read_bytes(), Path("long.flac").read_bytes()
    answered = student.predict(pd.DataFrame({"audio": [good, b"no audio at all", good[:40], long, good]}))
    assert list(answered["answer"]) == ["baserba 3200", "", "", "", "baserba 3200"]
    first, broken, cut, too_long, last = answered["error"]
    assert first == last == ""
    assert broken.startswith("recording 2 is no readable audio file") and cut.startswith("recording 3 ")
    assert too_long == "recording 4: a clip is too long"
    assert "BytesIO" not in broken + cut
    assert list(student.predict(pd.DataFrame({"audio": [b"x"]}))["answer"]) == [""]


def test_registering_twice_gives_one_version(pipeline):
    register.run(**pipeline)
    first = Path("registered/registration.json").read_text()
    register.run(**pipeline)
    assert Path("registered/registration.json").read_text() == first
    assert len(candidates()) == 1


def test_a_stage_killed_before_the_version_exists_resumes_its_run(pipeline, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(versions, "register", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        register.run(**pipeline)
    assert not Path("registered").exists()
    register.run(**pipeline)
    assert len(mlflow.search_runs(output_format="list")) == len(candidates()) == 1


def test_a_different_answer_after_the_reload_registers_nothing(pipeline, monkeypatch):
    answers = iter([Result("as trained")] * 2 + [Result("as loaded")] * 2)
    student = sys.modules["speech_rba.model.answering"]
    monkeypatch.setattr(student, "load_answerer", lambda *_: lambda clips: [next(answers) for _ in clips])
    with pytest.raises(ValueError, match=r"'as loaded'.*instead of 'as trained'"):
        register.run(**pipeline)
    assert candidates() == []
    assert not Path("registered").exists()


@pytest.mark.parametrize(
    ("validation", "best"),
    [({"sft": 0.5, "rba": 0.4}, "sft"), ({"sft": 0.4, "rba": 0.5}, "rba"), ({"sft": 0.5, "rba": 0.5}, "sft")],
)
def test_the_best_method_on_validation_is_selected_and_of_equal_ones_the_first(pipeline, validation, best):
    write_scores({"sft": 0.1, "rba": 0.9}, validation)
    scores = json.loads(Path("evaluation/scores.json").read_text())
    assert register.best_method(pipeline["params"], scores) == best


def test_without_a_passed_gate_or_a_score_nothing_is_registered(pipeline):
    write_scores({"sft": 0.3, "rba": 0.4}, validation={"sft": 0.3})
    with pytest.raises(ValueError, match="no validation score alignment/all/token_f1 of rba: set register"):
        register.run(**pipeline)
    write_scores({"sft": 0.3}, validation={"sft": 0.3, "rba": 0.4})
    with pytest.raises(ValueError, match=r"scores\.json has no alignment/all/token_f1 of rba"):
        register.run(**pipeline)
    Path("gate/gate.json").write_text('{"passed": false}')
    with pytest.raises(ValueError, match="did not pass"):
        register.run(**pipeline)


def test_too_few_clips_to_check_a_reload_with_are_refused(pipeline):
    with pytest.raises(ValueError, match="has 3 test clips"):
        register.check_clips(Path("validation/accepted.jsonl"), 4, set())


def test_a_reload_is_checked_first_with_clips_whose_answer_the_adapter_changes(pipeline):
    answers = read_jsonl(Path("evaluation/answers.jsonl"), Answer)
    for method, expected in (("sft", ["1", "2"]), ("rba", ["3", "1"])):
        changed = register.changed_clips(answers, method)
        clips = register.check_clips(Path("validation/accepted.jsonl"), 2, changed)
        assert [clip.id for clip in clips] == expected
