"""What is served is what was evaluated: clip by clip the same answers, whatever stands beside a clip in its batch."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from peft import LoraConfig, get_peft_model

from speech_rba.config import Params
from speech_rba.data.audio import read_audio
from speech_rba.model.answering import load_answerer
from speech_rba.model.student import Student, StudentConfig
from speech_rba.records import Answer, Clip, Message, Question, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import evaluate, features
from speech_rba.synthesis.augment import white_noise, with_noise
from speech_rba.synthesis.voices.voices import speak

TEXTS = [
    "What is the capital of France?",
    "Tell me about the old river in the town.",
    "Who wrote that book?",
    "Why?",
]


@pytest.fixture(scope="module")
def project(small_student, tmp_path_factory) -> Path:
    """Clips of different lengths, half of them noisy, a student that is_uncertain, and an adapter that changes answers."""
    folder = tmp_path_factory.mktemp("served")
    is_uncertain = {
        "soft_top_k": 8,
        "soft_temperature": 0.5,
        "min_asr_uncertainty": 0.05,
        "adapter_min_asr_uncertainty": 0.05,
    }
    doubting = Student(StudentConfig(**small_student.config.to_dict() | is_uncertain)).eval()
    doubting.save_pretrained(folder / "base")
    torch.manual_seed(0)
    model = get_peft_model(doubting, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder / "align/sft")
    (folder / "align/sft/log.jsonl").write_text("")
    write_clips(folder)
    return folder


def write_clips(folder: Path) -> None:
    sampling, rows, clips = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8), [], []
    (folder / "voice/clips").mkdir(parents=True)
    for i, text in enumerate(TEXTS):
        split = ("test", "validation")[i % 2]
        rows.append(Row(id=f"r{i}", task="question", split=split, messages=[Message(role="user", content=text)],
                        prompt=text, completion="It is.", completion_ended=True, teacher="t", template_hash="h",
                        sampling=sampling, seed=0))  # fmt: skip
        said = speak("espeak-en-us+f3", text, 1.0, 0.0)
        for condition in ("clean", "white_noise"):
            noise = white_noise(len(said), np.random.default_rng(i))
            hypotheses = said if condition == "clean" else with_noise(said, noise, 3.0)
            path, clip_id = f"clips/r{i}-{condition}.flac", f"r{i}-{condition}"
            soundfile.write(folder / "voice" / path, hypotheses, 16_000)
            clips.append(Clip(id=clip_id, row_id=f"r{i}", suite="alignment", split=split, path=path, transcript=text,
                              spoken=text, voice="v", engine="e", heldout_voice=False, rate=1, pitch_semitones=0,
                              level_db=-20, condition=condition, heldout_condition=False, strength={}, seed=0,
                              duration_s=len(hypotheses) / 16_000, sha256=""))  # fmt: skip
    for name in ("synthesize", "validate", "suites/quiz", "suite_features/quiz"):
        (folder / name).mkdir(parents=True)
    write_jsonl(folder / "synthesize/rows.jsonl", rows)
    write_jsonl(folder / "voice/manifest.jsonl", clips)
    write_jsonl(folder / "suites/quiz/manifest.jsonl", clips[:1])
    write_jsonl(folder / "suites/quiz/questions.jsonl", [Question(id="q", prompt="Why?", answers=["x"])])
    write_jsonl(folder / "validate/accepted.jsonl", clips)
    write_jsonl(folder / "validate/accepted_suites.jsonl", [])


def params() -> Params:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    values["align"]["methods"] = ["sft"]
    values["register"]["rank_by"] = "alignment/all/token_f1"
    values["evaluate"].update(suites={"quiz": "quiz"}, num_bootstrap=50)
    return Params.model_validate(values)


@pytest.fixture(scope="module")
def evaluated(project) -> dict[tuple[str, str], str]:
    """(clip id, system): the answer, from the stages as they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for clips, out in (("voice", "features"), ("suites/quiz", "suite_features/quiz")):
            features.run(params(), Path(clips), Path("base"), Path(out))
        names = (
            "synthesize",
            "features",
            "suites",
            "suite_features",
            "validate",
            "base",
            "align",
            "evaluate",
        )
        evaluate.run(params(), *map(Path, names))
    return {(a.clip_id, a.system): a.response for a in read_jsonl(project / "evaluate/answers.jsonl", Answer)}


@pytest.mark.parametrize("system", ["base", "sft"])
def test_each_clip_is_answered_as_it_was_evaluated_alone_and_among_others(project, evaluated, system):
    answer = load_answerer(project / "base", None if system == "base" else project / "align/sft")
    clips = read_jsonl(project / "voice/manifest.jsonl", Clip)
    sound = [read_audio(project / "voice" / clip.path) for clip in clips]
    wanted = [evaluated[clip.id, system] for clip in clips]
    assert [answer([audio])[0].response for audio in sound] == wanted
    assert [result.response for result in answer(sound * 4)] == wanted * 4  # a batch of 32


def test_the_mlflow_model_answers_as_it_was_evaluated(project, evaluated, tmp_path):
    from speech_rba.registry.serving import Student as Served

    shutil.copytree(project / "base", tmp_path / "base")
    shutil.copytree(project / "align/sft", tmp_path / "adapter")
    served = Served()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(tmp_path)}))
    clips = read_jsonl(project / "voice/manifest.jsonl", Clip)
    found = served.predict(
        None, pd.DataFrame({"audio": [(project / "voice" / c.path).read_bytes() for c in clips]})
    )
    assert list(found["answer"]) == [evaluated[clip.id, "sft"] for clip in clips]


def test_the_adapter_of_this_test_changes_answers(evaluated):
    changed = {
        clip for clip, system in evaluated if clip and evaluated[clip, "sft"] != evaluated[clip, "base"]
    }
    assert len(changed) >= 3
