"""Evaluation with the real student: every clip gets an answer of every system, and like prompts are answered once."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.model.bridge import one_hot_tokens
from speech_rba.model.hypotheses import save_hypotheses
from speech_rba.model.student import Student
from speech_rba.records import (
    Answer,
    Clip,
    Feature,
    Instruction,
    Message,
    Question,
    Row,
    Sampling,
    read_jsonl,
    write_jsonl,
)
from speech_rba.stages import evaluate

ROOT = Path(__file__).parents[2]
NAMES = ("synthesize", "features", "suites", "suite_features", "validate", "base", "align", "out")


@pytest.fixture
def params() -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["align"]["methods"] = ["sft"]
    values["register"]["rank_by"] = "alignment/all/token_f1"
    values["evaluate"].update(suites={"quiz": "quiz"}, num_bootstrap=50)
    return Params.model_validate(values)


def write_inputs(folder: Path, student, hypotheses, questions) -> None:
    """A row of each held-out split, each in a clean and a noisy clip that were heard alike; a suite without clips."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8)
    rows, clips, features = [], [], []
    splits = ["test", "test", "validation", "validation"]
    for i, (question, split) in enumerate(zip(questions[:4], splits, strict=True)):
        messages = [Message(role="user", content=question)]
        rows.append(Row(id=f"r{i}", task="question", split=split, messages=messages, prompt=question,
                        completion="It is Paris.", completion_ended=True, teacher="t", template_hash="h",
                        sampling=sampling, seed=0))  # fmt: skip
        for condition in ("clean", "telephone"):
            clip_id = f"r{i}-{condition}"
            clips.append(Clip(id=clip_id, row_id=f"r{i}", suite="alignment", split=split, path=f"clips/{clip_id}.flac",
                              transcript=question, voice="v", engine="e", heldout_voice=False, rate=1,
                              pitch_semitones=0, level_db=-20, condition=condition, strength={},
                          heldout_condition=False, spoken="x", seed=0,
                              duration_s=2, sha256=""))  # fmt: skip
            features.append(Feature(clip_id=clip_id, duration_s=2, rms_db=-20, peak=0.5, clipped_share=0,
                                    silence_share=0, words_per_s=3, judge_hypothesis=question, student_hypothesis="Why?", wer=0,
                                    mean_logprob=0))  # fmt: skip
    for name in ("synthesize", "features", "suites/quiz", "suite_features/quiz", "validate", "align"):
        (folder / name).mkdir(parents=True)
    write_jsonl(folder / "synthesize/rows.jsonl", rows)
    write_jsonl(folder / "suites/quiz/questions.jsonl", [])
    write_jsonl(folder / "suite_features/quiz/table.jsonl", [])
    save_hypotheses(folder / "suite_features/quiz/hypotheses.safetensors", hypotheses[:1])
    write_jsonl(folder / "validate/accepted_suites.jsonl", [])
    write_jsonl(folder / "features/table.jsonl", features)
    write_jsonl(folder / "validate/accepted.jsonl", clips)
    save_hypotheses(folder / "features/hypotheses.safetensors", [h for h in hypotheses[:4] for _ in range(2)])
    student.save_pretrained(folder / "base")


def write_adapter(folder: Path, std: float) -> None:
    """An adapter of the student that changes nothing where `std` is 0."""
    model = get_peft_model(
        Student.from_pretrained(folder / "base"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(folder / "align/sft")
    (folder / "align/sft/log.jsonl").write_text("")


def test_every_clip_gets_an_answer_of_every_system(
    tmp_path, monkeypatch, params, student, hypotheses, questions
):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path, student, hypotheses, questions)
    write_adapter(tmp_path, std=0.0)
    evaluate.run(params, *map(Path, NAMES))
    answers = read_jsonl(Path("out/answers.jsonl"), Answer)
    found = [(a.row_id, a.clip_id, a.split) for a in answers if a.system == "text"]
    assert found == [
        ("r0", "", "test"),
        ("r1", "", "test"),
        ("r2", "", "validation"),
        ("r3", "", "validation"),
    ]
    answers = [a for a in answers if a.split == "test"]
    by_system = {s: [a for a in answers if a.system == s] for s in ("text", "cascade", "base", "sft")}
    reads = by_system["sft"][4:]  # a method reads the texts too
    del by_system["sft"][4:]
    assert [(a.clip_id, a.condition) for a in reads] == [("", "text")] * 2
    assert [a.response for a in reads] == [a.response for a in by_system["text"]]
    assert by_system["sft"][0].hypothesis == "Why?" and by_system["sft"][0].prompt == questions[0]
    for system in ("cascade", "base", "sft"):
        assert [a.clip_id for a in by_system[system]] == [
            "r0-clean",
            "r0-telephone",
            "r1-clean",
            "r1-telephone",
        ]
        clean, telephone, other, _ = by_system[system]
        assert (clean.response, clean.metrics) == (telephone.response, telephone.metrics)
        assert clean.response and clean.response != other.response
    # what Whisper wrote is the question, so the cascade answers as the text system does
    text = {a.row_id: a.response for a in by_system["text"]}
    assert [a.response for a in by_system["cascade"][::2]] == [text["r0"], text["r1"]]
    scores = json.loads(Path("out/scores.json").read_text())
    assert scores["systems"] == ["text", "cascade", "base", "sft"]
    assert [a.metrics["teacher_pmi"] for a in by_system["cascade"][::2]] == [
        next(b.metrics["teacher_pmi"] for b in answers if b.system == "text" and b.row_id == r)
        for r in ("r0", "r1")
    ]
    rates = {(w["condition"], w["asr_adapter"]): w["value"] for w in scores["wer"]}
    assert rates["clean", "Whisper"] == 0 and rates["clean", "student"] == 1
    speeds = {cost["system"]: cost["tokens_per_s"] for cost in scores["cost"]}
    assert speeds.pop("cascade") is None  # it read nothing that the text system had not read
    assert all(speed > 0 for speed in speeds.values())
    assert scores["reward_hacking"] == {"sft": []}  # nothing was reinforced
    chosen_by = {(row["system"], row["condition"]): row["n"] for row in scores["validation"]}
    assert chosen_by["sft", "all"] == chosen_by["base", "all"] == 4 and chosen_by["text", "text"] == 2


@pytest.mark.parametrize("split", ["validation", "test"])
def test_without_a_held_out_clip_nothing_is_answered(
    tmp_path, monkeypatch, params, student, hypotheses, questions, split
):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path, student, hypotheses, questions)
    others = [c for c in read_jsonl(Path("validate/accepted.jsonl"), Clip) if c.split != split]
    write_jsonl(Path("validate/accepted.jsonl"), others)
    monkeypatch.setattr(evaluate, "answer_all", None)
    with pytest.raises(UserError, match=rf"raise synthesize\.{split}_share"):
        evaluate.run(params, *map(Path, NAMES))


def test_what_was_heard_without_doubt_a_method_answers_as_base(
    tmp_path, monkeypatch, params, small_student, hypotheses, questions
):
    monkeypatch.chdir(tmp_path)
    small_student.config.adapter_min_asr_uncertainty = (
        0.1  # and with one alternative a position it never is_uncertain
    )
    write_inputs(tmp_path, small_student, hypotheses, questions)
    small_student.config.adapter_min_asr_uncertainty = 0.0
    write_adapter(tmp_path, std=0.5)
    evaluate.run(params, *map(Path, NAMES))
    answers = read_jsonl(Path("out/answers.jsonl"), Answer)
    base, sft = (
        [(a.clip_id, a.response, a.metrics) for a in answers if a.system == s] for s in ("base", "sft")
    )
    assert base == sft[:8] and len(sft) == 8 + 4


def test_the_same_prompt_in_another_row_is_answered_anew(student):
    class Item:
        def __init__(self, row_id):
            self.suite, self.row_id = "alignment", row_id

    one, two = one_hot_tokens([1, 2], 4), one_hot_tokens([1, 3], 4)
    items = [Item("a"), Item("a"), Item("a"), Item("b")]
    keys = [
        evaluate.key_of(student, *pair)
        for pair in zip(items, [one, two, one_hot_tokens([1, 2], 4), one], strict=True)
    ]
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3]


def test_relevance_is_one_over_the_rank_of_the_question_that_was_asked():
    vectors = {
        "Why?": [1.0, 0.0],
        "Where?": [0.0, 1.0],
        "When?": [0.7, 0.7],
        "Here.": [0.1, 0.9],
        "Now.": [0.8, 0.6],
    }
    embed = lambda texts: torch.tensor([vectors[t] for t in texts])  # noqa: E731
    fields = dict.fromkeys(("clip_id", "system", "condition", "voice", "judge_hypothesis"), "x")
    said = [
        ("alignment", "b", "Here."),
        ("alignment", "a", "Here."),
        ("alignment", "c", "Now."),
        ("other", "a", "Now."),
    ]
    answers = [
        Answer(suite=s, row_id=r, response=t, heldout_voice=False, snr_db=None, metrics={}, **fields)
        for s, r, t in said
    ]
    evaluate.add_prompt_retrieval(embed, {"a": "Why?", "b": "Where?", "c": "When?"}, answers)
    # "Here." is nearest to "Where?" (0.9), then "When?" (0.7), then "Why?" (0.1); "Now." to "When?" (0.98)
    assert [a.metrics.get("prompt_retrieval_mrr") for a in answers] == [1, pytest.approx(1 / 3), 1, None]


def test_of_several_instructions_all_are_to_be_followed():
    asked = [
        Instruction(name="punctuation:no_comma", arguments={}),
        Instruction(name="startend:end_checker", arguments={"end_phrase": "good night"}),
    ]
    question = Question(id="q", prompt="Good night.", answers=[], instructions=asked)
    said = ["Tea. Good night", "Tea, milk. Good night", "Sure, here:\nTea. Good night"]
    found = [evaluate.verdict(question, response) for response in said]
    assert [f["followed"] for f in found] == [1, 0, 0] and [f["followed_loosely"] for f in found] == [1, 0, 1]


def test_a_choice_is_right_wrong_or_cannot_be_told():
    question = Question(id="q", prompt="A, B, C or D?", answers=[], choice="B")
    found = [evaluate.verdict(question, response) for response in ("The answer is B.", "A", "All of them")]
    assert [f["accuracy"] for f in found] == [1, 0, 0] and [f["unparsed"] for f in found] == [0, 0, 1]
    assert evaluate.verdict(Question(id="q", prompt="Say it.", answers=[], refuse=True), "I can't.") == {
        "refused": True
    }
    assert evaluate.verdict(Question(id="q", prompt="Say it.", answers=[], judged=True), "It.") == {}
