"""data/attribute_questions.jsonl, rows.jsonl of synthesize (purpose: asr_adapter), artifacts/asr_adapter -> artifacts/attributes, and its card.

The student learns what a reader cannot know: how something was said. Questions about it are spoken in known attributes and
answered from what a clip sounds like beside its words; other questions are to be told from them by their words. As the
asr_adapter, the result is committed and the stage is frozen in dvc.yaml; `make asr_adapter` trains it again.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm
from transformers import TrainingArguments, set_seed

from speech_rba.alignment.trainer import Log, common, resume
from speech_rba.compute.device import fast_dtype
from speech_rba.config import Attributes, Params, Voice
from speech_rba.data.measures import normalize
from speech_rba.errors import UserError
from speech_rba.evaluation.metrics import contains_answer
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.student import AttributeHead, Student, build_student
from speech_rba.pretraining.attributes import AttributeExample, AttributeTrainer, collate
from speech_rba.records import (
    ALIGNMENT,
    ATTRIBUTES,
    Attribute,
    AttributeQuestion,
    Clip,
    Question,
    Row,
    read_jsonl,
)
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis.plan_clips import (
    SETTINGS,
    Setting,
    draw_clip,
    draw_condition,
    draw_speech,
    setting_of,
)
from speech_rba.synthesis.record_clips import in_condition
from speech_rba.synthesis.voices import voices

BATCH = 32
MAX_CLIP_S = 10
SAMPLE_RATE = 16_000
ATTRIBUTES_C, ASKED_C = 0.1, 0.003  # of the logistic regressions: hundreds of numbers, few clips
ASKED_WEIGHT = 3  # of a question about the attribute among ordinary ones, which are as many times more


@dataclass(frozen=True)
class AttributeClip:
    """A clip to be spoken; the attribute that it asks about and the answer, None for an ordinary question."""

    clip: Clip
    attribute: Attribute | None = None
    answer: str | None = None


def run(params: Params, data: Path, rows: Path, asr_adapter: Path, out: Path) -> None:
    """The acoustic projector and its model card. A killed run hears again and goes on from its last checkpoint.

    Raises:
        UserError: a training question is one of a suite's, or asks for a attribute that nothing can be spoken in.
    """
    settings = params.attributes
    questions = read_jsonl(data / "attribute_questions.jsonl", AttributeQuestion)
    near = (data / "ordinary_questions.txt").read_text().splitlines()
    refuse_leaks([q.prompt for q in questions] + near, data)
    student = build_student(params.assets, params.base, asr_adapter, fast_dtype())
    work = workdir("attributes", params, data, rows / "rows.jsonl", asr_adapter)
    attribute_clips = plan_attribute_clips(
        params.voice, questions, settings.num_attribute_clips, "train", settings.seed
    )
    written = [row for row in read_jsonl(rows / "rows.jsonl", Row) if row.split == "train"]
    attribute_clips += plan_ordinary(params.voice, written[: settings.num_ordinary_clips])
    hypotheses = transcribe(student, attribute_clips, params.voice, data)
    checks = plan_attribute_clips(params.voice, questions, settings.num_checked, "test", settings.seed)
    checked = transcribe(student, checks, params.voice, data)
    before = accuracies(student, checks, checked)
    fit_attributes(student.attribute_head, attribute_clips, hypotheses)
    ordinary = [row.prompt for row in written] + near
    fit_question_attributes(student, questions, ordinary, attribute_clips, hypotheses)
    log = train(student, attribute_clips, hypotheses, settings, work)
    after = accuracies(student, checks, checked)
    facts = {"num_attribute_clips": settings.num_attribute_clips, "num_ordinary_texts": len(ordinary)}
    facts |= {
        "num_ordinary_clips": len(attribute_clips) - settings.num_attribute_clips,
        "num_checked": len(checks),
    }
    facts |= {"minutes": log.minutes(), "before": before, "after": after}
    with publish(out, work) as folder:
        weights = {k: w.detach().contiguous() for k, w in student.attribute_head.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "attributes.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    print(f"attributes: accuracy in held-out voices {before} before, {after} after")


def refuse_leaks(prompts: list[str], data: Path) -> None:
    """Raises UserError where a suite asks what is trained on."""
    asked = {
        normalize(q.prompt)
        for file in data.glob("suites/*/questions.jsonl")
        for q in read_jsonl(file, Question)
    }
    if leaked := [prompt for prompt in prompts if normalize(prompt) in asked]:
        raise UserError(f"{data} trains on questions of a suite, reword them: {'; '.join(leaked)}")


def plan_attribute_clips(
    voice: Voice, questions: list[AttributeQuestion], number: int, split: str, seed: int
) -> list[AttributeClip]:
    """`number` questions, each in a attribute drawn for it; of the split `test` in held-out voices."""
    allowed = voices.training_voices(voice) if split == "train" else voice.heldout_voices
    rng, attribute_clips = np.random.default_rng([seed, number]), []
    for i in range(number):
        question = questions[rng.integers(len(questions))]
        value = str(rng.choice(sorted(SETTINGS[question.name])))
        attribute, key = Attribute(name=question.name, value=value), f"{split}-attribute-{i}"
        setting = setting_of(attribute)
        condition = str(rng.choice(setting.conditions)) if setting.conditions else draw_condition(voice, key)
        speech = draw_speech(voice, key, allowed, key, "attributes", split, question.prompt, setting)
        attribute_clips.append(
            AttributeClip(draw_clip(voice, key, condition, speech), attribute, question.answers[value])
        )
    return attribute_clips


def plan_ordinary(voice: Voice, rows: list[Row]) -> list[AttributeClip]:
    """The rows' queries, in every condition of training."""
    allowed, attribute_clips = voices.training_voices(voice), []
    for row in rows:
        key = f"ordinary-{row.id}"
        speech = draw_speech(voice, key, allowed, row.id, ALIGNMENT, "train", row.prompt, Setting())
        attribute_clips.append(AttributeClip(draw_clip(voice, key, draw_condition(voice, key), speech)))
    return attribute_clips


def transcribe(
    student: Student, attribute_clips: list[AttributeClip], voice: Voice, data: Path
) -> list[SoftTokens]:
    """What the student hears of each clip, in order; like lengths are prompts together."""
    talkers = voices.plan_talkers(voice, data)
    sound = [
        record(attribute_clip.clip, talkers)
        for attribute_clip in tqdm(attribute_clips, desc="speak", mininterval=2)
    ]
    order, hypotheses = sorted(range(len(sound)), key=lambda i: len(sound[i])), {}
    for start in tqdm(range(0, len(order), BATCH), desc="transcribe", mininterval=2):
        chosen = order[start : start + BATCH]
        spoken, _ = student.encode_audio([sound[i] for i in chosen])
        hypotheses |= dict(zip(chosen, spoken, strict=True))
    return [hypotheses[i] for i in range(len(attribute_clips))]


def record(clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    speech = voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones)
    return in_condition(speech, clip, talkers)[: MAX_CLIP_S * SAMPLE_RATE]


@torch.no_grad()
def fit_attributes(
    projector: AttributeHead, attribute_clips: list[AttributeClip], hypotheses: list[SoftTokens]
) -> None:
    """The projector tells each name from the sound, by logistic regression over all clips that have a value of it."""
    sound = torch.stack([spoken.attribute_features for spoken in hypotheses])
    projector.mean.copy_(sound.mean(0))
    projector.deviation.copy_(sound.std(0))
    scaled = ((sound - projector.mean) / projector.deviation).numpy()
    for place, name in enumerate(ATTRIBUTES):
        first, other = (SETTINGS[name][value] for value in sorted(SETTINGS[name]))
        known = [i for i, t in enumerate(attribute_clips) if first.holds(t.clip) or other.holds(t.clip)]
        values = [first.holds(attribute_clips[i].clip) for i in known]
        fit(
            projector.attributes,
            place,
            scaled[known],
            values,
            LogisticRegression(C=ATTRIBUTES_C, max_iter=1000),
        )


@torch.no_grad()
def fit_question_attributes(
    student: Student, questions: list[AttributeQuestion], ordinary: list[str], attribute_clips: list[AttributeClip],
    spoken_prompts: list[SoftTokens],
) -> None:  # fmt: skip
    """The projector tells what is asked from the sum of the words' embeddings, written and as they were prompts."""
    asked = (
        [q.name for q in questions]
        + [None] * len(ordinary)
        + [t.attribute and t.attribute.name for t in attribute_clips]
    )
    prompts = student.text_prompts([q.prompt for q in questions] + ordinary) + spoken_prompts
    sums = torch.stack([student.words(prompt).sum(0) for prompt in prompts]).numpy()
    regression = LogisticRegression(C=ASKED_C, max_iter=1000, class_weight={True: ASKED_WEIGHT, False: 1})
    for place, name in enumerate(ATTRIBUTES):
        fit(
            student.attribute_head.question,
            place,
            sums,
            [asked_about == name for asked_about in asked],
            regression,
        )


def fit(
    layer: torch.nn.Linear, place: int, inputs: np.ndarray, values: list[bool], regression: LogisticRegression
) -> None:
    """Output `place` of `layer` becomes the log-odds of `values`; where all are alike, it stays 0."""
    if len(set(values)) == 2:
        fitted = regression.fit(inputs, values)
        layer.weight[place] = torch.tensor(fitted.coef_[0])
        layer.bias[place] = float(fitted.intercept_[0])


def train(
    student: Student,
    attribute_clips: list[AttributeClip],
    hypotheses: list[SoftTokens],
    settings: Attributes,
    work: Path,
) -> Log:
    set_seed(settings.seed)
    student.requires_grad_(False)
    student.attribute_head.offset.requires_grad_(True)
    log = Log(work / "log.jsonl")
    arguments = common(
        work / "attributes", steps=settings.max_steps, seed=settings.seed, save_steps=settings.save_steps
    )
    arguments |= {"warmup_steps": settings.max_steps // 10, "learning_rate": settings.learning_rate}
    args = TrainingArguments(**arguments, per_device_train_batch_size=settings.per_device_train_batch_size)
    end = student.tokenizer.eos_token_id
    told = [
        AttributeExample(
            spoken, [*student.tokenizer(attribute_clip.answer, add_special_tokens=False).input_ids, end]
        )
        for attribute_clip, spoken in zip(attribute_clips, hypotheses, strict=True)
        if attribute_clip.attribute
    ]
    trainer = AttributeTrainer(student, args, data_collator=collate, train_dataset=told, callbacks=[log])
    resume(trainer, log, "attributes", settings.max_steps)
    student.eval()
    return log


def accuracies(
    student: Student, attribute_clips: list[AttributeClip], hypotheses: list[SoftTokens]
) -> dict[str, float]:
    """The share of right answers by name."""
    sampling = {"max_new_tokens": 24, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 64}
    ids = student.answer(hypotheses, **sampling)
    right = defaultdict(list)
    for attribute_clip, answer in zip(attribute_clips, ids, strict=True):
        response = student.tokenizer.decode(answer, skip_special_tokens=True)
        right[attribute_clip.attribute.name].append(contains_answer(response, [attribute_clip.answer]))
    return {name: round(float(np.mean(found)), 3) for name, found in sorted(right.items())}


def card(params: Params, facts: dict) -> str:
    """The model card: what it was trained on, how, and what it tells."""
    lines = "\n".join(
        f"| {name} | {facts['before'][name]:.2f} | {share:.2f} |" for name, share in facts["after"].items()
    )
    return f"""# How it was said

The acoustic projector of speech-rba, made by `make asr_adapter` in {facts["minutes"]:.0f} minutes.

- Input: mean and deviation over time of the first encoder layer of the asr_adapter, from which logistic regression tells \
each name; and the sum of the words' embeddings, from which it tells the name asked about. Where one is asked \
about, its value becomes an offset to the embeddings between query and answer.
- Data: {facts["num_attribute_clips"]} questions of `data/attribute_questions.jsonl` in known attributes, \
{facts["num_ordinary_clips"]} ordinary questions, and {facts["num_ordinary_texts"]} written ones; no person recorded.
- Loss: cross-entropy of the answers.

Right answers to the trained questions, in the {len(params.voice.heldout_voices)} held-out voices \
({facts["num_checked"]} clips; guessing gives at most 0.5):

| name | before | after |
|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main(run)
