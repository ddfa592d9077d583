"""What the align stage reads, at toy size: six rows, their clips and hypotheses, and a small base student."""

from pathlib import Path

import pytest
import yaml

from speech_rba.config import load_params
from speech_rba.model import student as student_module
from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.hypotheses import save_hypotheses
from speech_rba.model.student import Student
from speech_rba.records import Clip, Feature, Instruction, Message, Row, Sampling, write_jsonl
from speech_rba.stages import align

ROOT = Path(__file__).parents[1]
NUM_ROWS = 6
INPUTS = {
    "rows": Path("artifacts/synthesize"),
    "features": Path("artifacts/features"),
    "validation": Path("artifacts/validate"),
    "gate": Path("artifacts/gate"),
    "base": Path("artifacts/base"),
}
ANY_WORD = Instruction(
    name="length_constraints:number_words", arguments={"num_words": 1, "relation": "at least"}
)


def write_inputs(folder: Path, student: Student, hypotheses: list[Hypothesis], questions: list[str]) -> None:
    """`folder` holds params.yaml and what the align stage reads; each answer has the instruction ANY_WORD."""
    (folder / "params.yaml").write_text(yaml.safe_dump(toy_values()))
    for path in INPUTS.values():
        (folder / path).mkdir(parents=True)
    places = range(NUM_ROWS)
    write_jsonl(folder / INPUTS["rows"] / "rows.jsonl", [row(i, questions[i]) for i in places])
    write_jsonl(folder / INPUTS["features"] / "table.jsonl", [feature(i, questions[i]) for i in places])
    write_jsonl(folder / INPUTS["validation"] / "accepted.jsonl", [clip(i, questions[i]) for i in places])
    save_hypotheses(folder / INPUTS["features"] / "hypotheses.safetensors", hypotheses[:NUM_ROWS])
    (folder / INPUTS["gate"] / "gate.json").write_text('{"passed": true}')
    student.save_pretrained(folder / INPUTS["base"])


def toy_values() -> dict:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["align"].update(save_steps=1, per_device_train_batch_size=2, max_completion_tokens=6, lora_r=2)
    values["align"]["sft"]["max_steps"] = 2
    values["align"]["rba"].update(warm_start_steps=1, max_steps=2, num_generations=2)
    return values


def row(number: int, question: str) -> Row:
    """The teacher ended every answer but the first."""
    answer = f"The answer is number {number}."
    return Row(
        id=f"r{number}",
        task="question",
        split="train",
        messages=[Message(role="user", content=question), Message(role="assistant", content=answer)],
        prompt=question,
        completion=answer,
        completion_ended=number > 0,
        teacher="t",
        template_hash="h",
        sampling=Sampling(temperature=1, top_p=1, max_new_tokens=8),
        seed=0,
        instructions=[ANY_WORD],
    )


def clip(number: int, question: str) -> Clip:
    return Clip(
        id=f"c{number}",
        row_id=f"r{number}",
        suite="alignment",
        split="train",
        path=f"clips/c{number}.flac",
        transcript=question,
        spoken="x",
        voice="v",
        engine="e",
        heldout_voice=False,
        rate=1,
        pitch_semitones=0,
        level_db=-20,
        condition="clean",
        heldout_condition=False,
        strength={},
        seed=0,
        duration_s=2,
        sha256="",
    )


def feature(number: int, question: str) -> Feature:
    return Feature(
        clip_id=f"c{number}",
        duration_s=2,
        rms_db=-20,
        peak=0.5,
        clipped_share=0,
        silence_share=0,
        words_per_s=3,
        judge_hypothesis=question,
        student_hypothesis=question,
        wer=0,
        mean_logprob=0,
    )


def run(method: str, out: str) -> None:
    """The align stage in the current folder."""
    align.run(load_params(), method, **INPUTS, out=Path(out))


def reuse_loaded_parts(monkeypatch: pytest.MonkeyPatch, student: Student) -> None:
    """A student that is loaded from here on takes the tokenizer and the audio tower of `student`."""
    tower = student.audio_tower
    monkeypatch.setattr(student_module, "load_audio_tower", lambda *_: tower)
    monkeypatch.setattr(student_module, "load_tokenizer", lambda _: student.tokenizer)
