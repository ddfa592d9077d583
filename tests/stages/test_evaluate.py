"""The evaluate stage with a student of two layers: every system answers every clip."""

import csv
import json
from contextlib import chdir
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.evaluation.items import Inputs, Item
from speech_rba.evaluation.systems import prompt_key
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.bridge import one_hot_tokens
from speech_rba.model.hypotheses import save_hypotheses
from speech_rba.model.student import Student
from speech_rba.records import Answer, Clip, Feature, Message, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import evaluate

ROOT = Path(__file__).parents[2]
NAMES = ("synthesize", "features", "suites", "suite_features", "validate", "base", "align", "out", "metrics")
SPLITS = ("test", "test", "validation", "validation")
CONDITIONS = ("clean", "telephone")


def make_params() -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["align"]["methods"] = ["sft"]
    values["register"]["rank_by"] = "alignment/all/token_f1"
    values["evaluate"].update(suites={"quiz": "quiz"}, num_bootstrap=50)
    return Params.model_validate(values)


def make_row(number: int, prompt: str) -> Row:
    return Row(
        id=f"r{number}",
        task="question",
        split=SPLITS[number],
        messages=[Message(role="user", content=prompt)],
        prompt=prompt,
        completion="It is Paris.",
        completion_ended=True,
        teacher="t",
        template_hash="h",
        seed=0,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
    )


def make_clip(row: Row, condition: str) -> Clip:
    return Clip(
        id=f"{row.id}-{condition}",
        row_id=row.id,
        suite="alignment",
        split=row.split,
        path="a.flac",
        transcript=row.prompt,
        voice="v",
        engine="e",
        heldout_voice=False,
        rate=1,
        pitch_semitones=0,
        level_db=-20,
        condition=condition,
        strength={},
        heldout_condition=False,
        spoken="x",
        seed=0,
        duration_s=2,
        sha256="",
    )


def make_feature(clip: Clip) -> Feature:
    """Whisper transcribes the clip without an error, the student with one word that is wrong."""
    return Feature(
        clip_id=clip.id,
        duration_s=2,
        rms_db=-20,
        peak=0.5,
        clipped_share=0,
        silence_share=0,
        words_per_s=3,
        judge_hypothesis=clip.transcript,
        student_hypothesis="Why?",
        wer=0,
        mean_logprob=0,
    )


def make_hypothesis(student: Student, text: str) -> Hypothesis:
    """A transcript of `text` in which every token is certain."""
    ids = torch.tensor(student.audio_tower.tokenizer(text, add_special_tokens=False).input_ids)
    width = student.config.audio_width
    return Hypothesis(
        token_ids=ids,
        top_ids=ids[:, None],
        top_probs=torch.ones(len(ids), 1),
        hidden=torch.zeros(len(ids), width),
        attribute_features=torch.zeros(2 * width),
        mean_logprob=0.0,
    )


def write_inputs(folder: Path, student: Student, questions: list[str]) -> None:
    """Two rows of each held-out split, each with two clips of equal transcripts; a suite without clips."""
    rows = [make_row(number, question) for number, question in enumerate(questions[:4])]
    clips = [make_clip(row, condition) for row in rows for condition in CONDITIONS]
    for name in ("synthesize", "features", "suites/quiz", "suite_features/quiz", "validate", "align"):
        (folder / name).mkdir(parents=True)
    write_jsonl(folder / "synthesize/rows.jsonl", rows)
    write_jsonl(folder / "suites/quiz/questions.jsonl", [])
    write_jsonl(folder / "suite_features/quiz/table.jsonl", [])
    write_jsonl(folder / "validate/accepted_suites.jsonl", [])
    write_jsonl(folder / "features/table.jsonl", [make_feature(clip) for clip in clips])
    write_jsonl(folder / "validate/accepted.jsonl", clips)
    hypotheses = [make_hypothesis(student, clip.transcript + " now") for clip in clips]
    save_hypotheses(folder / "suite_features/quiz/hypotheses.safetensors", hypotheses[:1])
    save_hypotheses(folder / "features/hypotheses.safetensors", hypotheses)


def write_student(folder: Path, student: Student, min_asr_uncertainty: float, adapter_std: float) -> None:
    """The student as base, and its adapter for sft, which changes nothing with a standard deviation of 0."""
    config = student.config
    kept = config.adapter_min_asr_uncertainty, config.max_completion_tokens
    config.adapter_min_asr_uncertainty, config.max_completion_tokens = min_asr_uncertainty, 8
    student.save_pretrained(folder / "base")
    config.adapter_min_asr_uncertainty, config.max_completion_tokens = kept
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    model = get_peft_model(Student.from_pretrained(folder / "base"), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=adapter_std)
    model.save_pretrained(folder / "align/sft")
    (folder / "align/sft/log.jsonl").write_text("")


def evaluated(folder: Path, student: Student, questions: list[str], **settings: float) -> Path:
    """The output folder of a run."""
    write_inputs(folder, student, questions)
    write_student(folder, student, **settings)
    with chdir(folder):
        evaluate.run(make_params(), *map(Path, NAMES))
    return folder / "out"


@pytest.fixture(scope="module")
def out(tmp_path_factory, small_student, questions) -> Path:
    """The output with an adapter that takes part in every answer and changes none."""
    folder = tmp_path_factory.mktemp("evaluate")
    return evaluated(folder, small_student, questions, min_asr_uncertainty=0.0, adapter_std=0.0)


def answers_of(out: Path, system: str, split: str = "test") -> list[Answer]:
    answers = read_jsonl(out / "answers.jsonl", Answer)
    return [a for a in answers if a.system == system and a.split == split]


@pytest.fixture(scope="module")
def scores(out) -> dict:
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize(("split", "rows"), [("test", ["r0", "r1"]), ("validation", ["r2", "r3"])])
def test_text_answers_every_row_once(out, split, rows):
    assert [(a.row_id, a.clip_id) for a in answers_of(out, "text", split)] == [(row, "") for row in rows]


@pytest.mark.parametrize("system", ["cascade", "base", "sft"])
def test_a_system_answers_every_clip_and_clips_of_equal_transcripts_alike(out, system):
    answers = answers_of(out, system)[:4]
    assert [a.clip_id for a in answers] == [f"{row}-{c}" for row in ("r0", "r1") for c in CONDITIONS]
    clean, telephone, other, _ = answers
    assert (clean.response, clean.metrics) == (telephone.response, telephone.metrics)
    assert clean.response and clean.metrics != other.metrics


def test_a_method_also_answers_the_texts(out, questions):
    sft, text = answers_of(out, "sft"), answers_of(out, "text")
    assert [(a.clip_id, a.condition) for a in sft[4:]] == [("", "text")] * 2
    assert [a.response for a in sft[4:]] == [a.response for a in text]
    assert sft[0].hypothesis == "Why?" and sft[0].prompt == questions[0]


def test_the_cascade_answers_a_correct_transcript_as_the_text_system_does(out, scores):
    text, cascade = answers_of(out, "text"), answers_of(out, "cascade")[::2]
    assert [a.response for a in cascade] == [a.response for a in text]
    assert [a.metrics["teacher_pmi"] for a in cascade] == [a.metrics["teacher_pmi"] for a in text]
    speeds = {cost["system"]: cost["tokens_per_s"] for cost in scores["cost"]}
    assert speeds.pop("cascade") is None  # the text system answers all its prompts
    assert all(speed > 0 for speed in speeds.values())


def test_scores_hold_both_splits_word_error_rates_and_checks(scores):
    assert scores["systems"] == ["text", "cascade", "base", "sft"]
    rates = {(row["condition"], row["asr_adapter"]): row["value"] for row in scores["wer"]}
    assert rates["clean", "Whisper"] == 0 and rates["clean", "student"] == 1
    assert scores["reward_hacking"] == {"sft": []}  # sft is not reinforced
    counts = {(row["system"], row["condition"]): row["n"] for row in scores["validation"]}
    assert counts["sft", "all"] == counts["base", "all"] == 4 and counts["text", "text"] == 2
    (best,) = scores["comparisons"]["best"]
    assert (best["suite"], best["metric"], best["system"]) == ("alignment", "teacher_logp", "sft")
    assert {row["group"] for row in scores["comparisons"]["by_voice"]} == {"v"}


def test_the_metrics_for_dvc_hold_a_score_of_every_system(out):
    summary = json.loads((out.parent / "metrics/scores.json").read_text())
    assert set(summary["alignment"]["teacher_similarity"]) == {"text", "cascade", "base", "sft"}
    assert summary["alignment"]["wer"] == {"Whisper": 0, "student": 1} and summary["minutes"] >= 0
    with open(out.parent / "metrics/accuracy.csv", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == []  # no suite has an accuracy


@pytest.mark.parametrize("split", ["validation", "test"])
def test_without_a_held_out_clip_nothing_is_answered(tmp_path, monkeypatch, small_student, questions, split):
    write_inputs(tmp_path, small_student, questions)
    accepted = tmp_path / "validate/accepted.jsonl"
    write_jsonl(accepted, [clip for clip in read_jsonl(accepted, Clip) if clip.split != split])
    folders = [tmp_path / name for name in NAMES[:5]]
    items = evaluate.load_items(small_student, Inputs(*folders), ["quiz"])
    with pytest.raises(UserError, match=rf"raise synthesize\.{split}_share"):
        evaluate.check_splits(items)


def test_a_method_answers_as_base_where_its_adapter_takes_no_part(tmp_path, small_student, questions):
    out = evaluated(tmp_path, small_student, questions, min_asr_uncertainty=0.1, adapter_std=0.5)
    base, sft = (
        [
            (a.clip_id, a.response, a.metrics)
            for a in read_jsonl(out / "answers.jsonl", Answer)
            if a.system == system
        ]
        for system in ("base", "sft")
    )
    assert base == sft[:8] and len(sft) == 8 + 4


def test_an_adapter_can_be_taken_off_again(tmp_path, small_student, questions):
    (tmp_path / "align").mkdir()
    write_student(tmp_path, small_student, min_asr_uncertainty=0.0, adapter_std=0.5)
    answering = AlignedStudent(tmp_path / "base", None, torch.float32)
    prompts, completions = answering.student.text_prompts(questions[:2]), [[5, 6], [7, 8]]
    unadapted = answering.logps(prompts, completions)
    answering.use_adapter(tmp_path / "align/sft")
    assert answering.logps(prompts, completions) != unadapted
    answering.use_adapter(None)
    assert answering.logps(prompts, completions) == unadapted


def test_equal_prompts_have_equal_keys_within_a_row(small_student):
    def key(row_id: str, ids: list[int]) -> tuple:
        fields = dict.fromkeys(Item.__dataclass_fields__, None) | {"suite": "alignment", "row_id": row_id}
        return prompt_key(small_student, Item(**fields), one_hot_tokens(ids, 4))

    keys = [key("a", [1, 2]), key("a", [1, 3]), key("a", [1, 2]), key("b", [1, 2])]
    assert [keys.index(k) for k in keys] == [0, 1, 0, 3]
