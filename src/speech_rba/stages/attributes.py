"""data/attribute_questions.jsonl, rows.jsonl of synthesize (purpose: asr_adapter), artifacts/asr_adapter
-> artifacts/attributes: the attribute head and its model card.

The head gives the student paralinguistic attributes of a clip, which no transcript holds, such as the
speaker's gender or background noise. It is trained on spoken questions about them with known answers, and on
ordinary questions, which it must leave alone. As the ASR adapter, it is committed and its stage is frozen in
dvc.yaml; `make asr-adapter` trains both again.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from speech_rba.alignment.trainer import TrainingLog
from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params
from speech_rba.data.measures import normalize
from speech_rba.errors import UserError
from speech_rba.evaluation.metrics import contains_answer
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.student import AttributeHead, Student, build_student
from speech_rba.pretraining.attribute_clips import (
    AttributeClip,
    plan_attribute_clips,
    plan_ordinary_clips,
    transcribe_clips,
)
from speech_rba.pretraining.attributes import (
    attribute_examples,
    fit_attributes,
    fit_question_attributes,
    train_offsets,
)
from speech_rba.records import AttributeQuestion, Question, Row, read_jsonl
from speech_rba.stages import main, publish, workdir


@dataclass(frozen=True)
class Texts:
    """The texts of training: questions about attributes, rows that are voiced, and ordinary written
    texts."""

    questions: list[AttributeQuestion]
    voiced_rows: list[Row]
    ordinary: list[str]


def run(params: Params, data: Path, rows: Path, asr_adapter: Path, out: Path) -> None:
    """The attribute head and its model card. A killed run transcribes again and resumes from its last
    checkpoint.

    Raises:
        UserError: a training question is one of a suite's, or is about an attribute that no clip can have.
    """
    texts = read_texts(params, data, rows)
    student = build_student(params.assets, params.base, asr_adapter, fast_dtype())
    work = workdir("attributes", params, data, rows / "rows.jsonl", asr_adapter)
    clips = training_clips(params, texts)
    prompts = transcribe_clips(student, clips, params.voice, data)
    test_clips = heldout_clips(params, texts)
    test_prompts = transcribe_clips(student, test_clips, params.voice, data)
    before = accuracies(student, test_clips, test_prompts)
    log = train(params, student, texts, clips, prompts, work)
    after = accuracies(student, test_clips, test_prompts)
    facts = training_facts(params, texts, clips) | {"num_checked": len(test_clips)}
    facts |= {"minutes": log.minutes(), "before": before, "after": after}
    with publish(out, work) as folder:
        save_head(student.attribute_head, folder)
        (folder / "attributes.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    print(f"attributes: accuracy in held-out voices {before} before, {after} after")


def read_texts(params: Params, data: Path, rows: Path) -> Texts:
    """The texts of training.

    Raises:
        UserError: a suite asks one of them.
    """
    questions = read_jsonl(data / "attribute_questions.jsonl", AttributeQuestion)
    ordinary = (data / "ordinary_questions.txt").read_text().splitlines()
    refuse_leaks([question.prompt for question in questions] + ordinary, data)
    train_rows = [row for row in read_jsonl(rows / "rows.jsonl", Row) if row.split == "train"]
    voiced_rows = train_rows[: params.attributes.num_ordinary_clips]
    return Texts(questions, voiced_rows, [row.prompt for row in train_rows] + ordinary)


def refuse_leaks(prompts: list[str], data: Path) -> None:
    """Raises UserError where a suite asks a prompt of the training."""
    files = data.glob("suites/*/questions.jsonl")
    suite_prompts = {normalize(question.prompt) for file in files for question in read_jsonl(file, Question)}
    if leaked := [prompt for prompt in prompts if normalize(prompt) in suite_prompts]:
        raise UserError(f"{data} trains on questions of a suite, reword them: {'; '.join(leaked)}")


def training_clips(params: Params, texts: Texts) -> list[AttributeClip]:
    """Questions about attributes, then ordinary ones."""
    settings = params.attributes
    clips = plan_attribute_clips(
        params.voice, texts.questions, settings.num_attribute_clips, "train", settings.seed
    )
    return clips + plan_ordinary_clips(params.voice, texts.voiced_rows)


def heldout_clips(params: Params, texts: Texts) -> list[AttributeClip]:
    """Questions about attributes in held-out voices."""
    settings = params.attributes
    return plan_attribute_clips(params.voice, texts.questions, settings.num_checked, "test", settings.seed)


def train(
    params: Params,
    student: Student,
    texts: Texts,
    clips: list[AttributeClip],
    prompts: list[SoftTokens],
    work: Path,
) -> TrainingLog:
    """The log; the student's attribute head is trained."""
    fit_attributes(student.attribute_head, clips, prompts)
    fit_question_attributes(student, texts.questions, texts.ordinary, clips, prompts)
    return train_offsets(student, attribute_examples(student, clips, prompts), params.attributes, work)


def accuracies(student: Student, clips: list[AttributeClip], prompts: list[SoftTokens]) -> dict[str, float]:
    """The share of right answers by attribute."""
    sampling = {"max_new_tokens": 24, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 64}
    is_right = defaultdict(list)
    for clip, answer in zip(clips, student.answer(prompts, **sampling), strict=True):
        assert clip.attribute and clip.answer  # held-out clips all ask about one
        response = str(student.tokenizer.decode(answer, skip_special_tokens=True))
        is_right[clip.attribute.name].append(contains_answer(response, [clip.answer]))
    return {name: round(float(np.mean(rights)), 3) for name, rights in sorted(is_right.items())}


def training_facts(params: Params, texts: Texts, clips: list[AttributeClip]) -> dict:
    num_attribute_clips = params.attributes.num_attribute_clips
    return {
        "num_attribute_clips": num_attribute_clips,
        "num_ordinary_texts": len(texts.ordinary),
        "num_ordinary_clips": len(clips) - num_attribute_clips,
    }


def save_head(head: AttributeHead, folder: Path) -> None:
    weights = {name: weight.detach().contiguous() for name, weight in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def card(params: Params, facts: dict) -> str:
    """The model card: training data, training, and accuracy."""
    lines = "\n".join(
        f"| {name} | {facts['before'][name]:.2f} | {share:.2f} |" for name, share in facts["after"].items()
    )
    return f"""# Attribute head of speech-rba

It passes paralinguistic attributes of a clip on to the language model. Made by `make asr-adapter` in \
{facts["minutes"]:.0f} minutes.

- Input: the mean and deviation over time of the states of the first encoder layer, \
from which logistic regressions give each attribute; and the sum of the word embeddings, from which one \
gives the attribute that the query is about.
- Output: an offset to the embeddings between query and answer; zero for a query that is about no attribute.
- Data: {facts["num_attribute_clips"]} spoken questions of `data/attribute_questions.jsonl` with known \
attributes, {facts["num_ordinary_clips"]} ordinary spoken questions, and {facts["num_ordinary_texts"]} \
ordinary texts; all speech is synthesized.
- Loss: cross-entropy of the answers.

Accuracy on the trained questions in the {len(params.voice.heldout_voices)} held-out voices \
({facts["num_checked"]} clips; guessing gives at most 0.5):

| attribute | before training | after |
|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main(run)
