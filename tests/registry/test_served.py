"""A served student gives the answers that were evaluated, whatever other clips are in the batch."""

import io
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
from speech_rba.server.student import answer, load
from speech_rba.stages import evaluate, features
from speech_rba.synthesis.augment import white_noise, with_noise
from speech_rba.synthesis.voices.voices import speak

TEXTS = [
    "What is the capital of France?",
    "Tell me about the old river in the town.",
    "Who wrote that book?",
    "Why?",
]


ROW = {
    "task": "question",
    "completion": "It is.",
    "completion_ended": True,
    "teacher": "t",
    "template_hash": "h",
    "sampling": Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
    "seed": 0,
}
CLIP = {
    "suite": "alignment",
    "voice": "v",
    "engine": "e",
    "heldout_voice": False,
    "rate": 1,
    "pitch_semitones": 0,
    "level_db": -20,
    "heldout_condition": False,
    "strength": {},
    "seed": 0,
    "sha256": "",
}


@pytest.fixture(scope="module")
def project(small_student, tmp_path_factory) -> Path:
    """Clips of several lengths, half of them noisy; a student, and an adapter that changes its answers."""
    folder = tmp_path_factory.mktemp("served")
    soft_tokens = {
        "soft_top_k": 8,
        "soft_temperature": 0.5,
        "min_asr_uncertainty": 0.05,
        "adapter_min_asr_uncertainty": 0.05,
    }
    student = Student(StudentConfig(**small_student.config.to_dict() | soft_tokens)).eval()
    student.save_pretrained(folder / "base")
    torch.manual_seed(0)
    model = get_peft_model(student, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder / "align/sft")
    (folder / "align/sft/log.jsonl").write_text("")
    write_clips(folder)
    return folder


def write_clips(folder: Path) -> None:
    """Two clips, clean and with noise, of each row; half of the rows are test rows."""
    rows, clips = [], []
    (folder / "voice/clips").mkdir(parents=True)
    for i, text in enumerate(TEXTS):
        split = ("test", "validation")[i % 2]
        message = Message(role="user", content=text)
        rows.append(Row(**ROW, id=f"r{i}", split=split, messages=[message], prompt=text))
        clean = speak("espeak-en-us+f3", text, 1.0, 0.0)
        noise = white_noise(len(clean), np.random.default_rng(i))
        for condition, audio in (("clean", clean), ("white_noise", with_noise(clean, noise, 3.0))):
            name = f"r{i}-{condition}"
            of_row = {"row_id": f"r{i}", "split": split, "transcript": text, "spoken": text}
            of_clip = {"id": name, "path": f"clips/{name}.flac", "duration_s": len(audio) / 16_000}
            soundfile.write(folder / "voice" / of_clip["path"], audio, 16_000)
            clips.append(Clip(**CLIP, **of_row, **of_clip, condition=condition))
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
            "metrics",
        )
        evaluate.run(params(), *map(Path, names))
    return {(a.clip_id, a.system): a.response for a in read_jsonl(project / "evaluate/answers.jsonl", Answer)}


@pytest.mark.parametrize(("system", "copies"), [("base", 1), ("sft", 4)])
def test_a_clip_has_its_evaluated_answer_alone_and_in_a_batch(project, evaluated, system, copies):
    """The largest batch has 32 clips."""
    answer = load_answerer(project / "base", None if system == "base" else project / "align/sft")
    clips = read_jsonl(project / "voice/manifest.jsonl", Clip)
    audio = [read_audio(project / "voice" / clip.path) for clip in clips]
    expected = [evaluated[clip.id, system] for clip in clips]
    alone = slice(None, None, 3)  # clips of three lengths, clean and noisy
    assert [answer([array])[0].response for array in audio[alone]] == expected[alone]
    assert [result.response for result in answer(audio * copies)] == expected * copies


def test_the_mlflow_model_gives_the_evaluated_answers(project, evaluated, tmp_path):
    from speech_rba.registry.serving import Student as Served

    (tmp_path / "base").symlink_to(project / "base")
    (tmp_path / "adapter").symlink_to(project / "align/sft")
    served = Served()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(tmp_path)}))
    clips = read_jsonl(project / "voice/manifest.jsonl", Clip)
    audio = [(project / "voice" / clip.path).read_bytes() for clip in clips]
    rows = served.predict(None, pd.DataFrame({"audio": [*audio, b"no sound"]}))
    *answers, unanswered = rows["answer"]
    assert answers == [evaluated[clip.id, "sft"] for clip in clips] and unanswered == ""
    *errors, error = rows["error"]
    assert not any(errors) and error.startswith(f"recording {len(clips) + 1} is no readable audio file")
    talk = load_answerer(project / "base", project / "align/sft")([read_audio(io.BytesIO(audio[0]), "clip")])
    assert rows["transcript"][0] == talk[0].hypothesis and rows["no_speech"][0] == (talk[0].no_speech or "")


def test_the_server_gives_the_evaluated_answers_whole_and_streamed(project, evaluated):
    clips = read_jsonl(project / "voice/manifest.jsonl", Clip)
    served = load(project / "base", project / "align/sft")
    for clip in clips[:4]:
        prompt, *pieces = answer(served, [read_audio(project / "voice" / clip.path)])
        assert prompt.hypothesis and "".join(pieces) == evaluated[clip.id, "sft"]


def test_the_adapter_of_these_tests_changes_answers(evaluated):
    clips = {clip for clip, _ in evaluated if clip}
    assert sum(evaluated[clip, "sft"] != evaluated[clip, "base"] for clip in clips) >= 3
