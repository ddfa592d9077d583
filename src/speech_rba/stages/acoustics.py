"""data/manners.jsonl, rows.jsonl of synthesize (purpose: ears), artifacts/ears -> artifacts/acoustics, and its card.

The student learns what a reader cannot know: how something was said. Questions about it are spoken in known manners and
answered from what a clip sounds like beside its words; other questions are to be told from them by their words. As the
ears, the result is committed and the stage is frozen in dvc.yaml; `make ears` trains it again.
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

from speech_rba.data.measures import normalize
from speech_rba.errors import UserError
from speech_rba.evaluation.metrics import contains_answer
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.language import fast_dtype
from speech_rba.model.student import AcousticProjector, Student, untrained
from speech_rba.params import Acoustics, Params, Voice
from speech_rba.records import ALIGNMENT, TRAITS, Clip, Manner, MannerQuestion, Question, Row, read_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis import voices
from speech_rba.synthesis.recording import (
    SETTINGS,
    Setting,
    draw_clip,
    draw_condition,
    draw_speech,
    in_condition,
    setting_of,
)
from speech_rba.training.acoustics import AcousticTrainer, Told, collate
from speech_rba.training.loop import Log, common, resume

BATCH = 32
MAX_CLIP_S = 10
SAMPLE_RATE = 16_000
TRAITS_C, ASKED_C = 0.1, 0.003  # of the logistic regressions: hundreds of numbers, few clips
ASKED_WEIGHT = 3  # of a question about the manner among ordinary ones, which are as many times more


@dataclass(frozen=True)
class Telling:
    """A clip to be spoken; the manner that it asks about and the answer, None for an ordinary question."""

    clip: Clip
    manner: Manner | None = None
    answer: str | None = None


def run(params: Params, data: Path, rows: Path, ears: Path, out: Path) -> None:
    """The acoustic projector and its model card. A killed run hears again and goes on from its last checkpoint.

    Raises:
        UserError: a training question is one of a suite's, or asks for a manner that nothing can be spoken in.
    """
    settings = params.acoustics
    questions = read_jsonl(data / "manners.jsonl", MannerQuestion)
    near = (data / "other_questions.txt").read_text().splitlines()
    refuse_leaks([q.prompt for q in questions] + near, data)
    student = untrained(params.assets, params.base, ears, fast_dtype())
    work = workdir("acoustics", params, data, rows / "rows.jsonl", ears)
    tellings = plan_manners(params.voice, questions, settings.num_manner_clips, "train", settings.seed)
    written = [row for row in read_jsonl(rows / "rows.jsonl", Row) if row.split == "train"]
    tellings += plan_ordinary(params.voice, written[: settings.num_ordinary_clips])
    heard = hear(student, tellings, params.voice, data)
    checks = plan_manners(params.voice, questions, settings.num_checked, "test", settings.seed)
    checked = hear(student, checks, params.voice, data)
    before = accuracies(student, checks, checked)
    read_traits(student.acoustic_projector, tellings, heard)
    ordinary = [row.prompt for row in written] + near
    read_questions(student, questions, ordinary, tellings, heard)
    log = train(student, tellings, heard, settings, work)
    after = accuracies(student, checks, checked)
    facts = {"num_manner_clips": settings.num_manner_clips, "num_ordinary_texts": len(ordinary)}
    facts |= {"num_ordinary_clips": len(tellings) - settings.num_manner_clips, "num_checked": len(checks)}
    facts |= {"minutes": log.minutes(), "before": before, "after": after}
    with publish(out, work) as folder:
        weights = {k: w.detach().contiguous() for k, w in student.acoustic_projector.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "acoustics.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    print(f"acoustics: accuracy in held-out voices {before} before, {after} after")


def refuse_leaks(prompts: list[str], data: Path) -> None:
    """Raises UserError where a suite asks what is trained on."""
    asked = {normalize(q.prompt) for file in data.glob("suites/*/questions.jsonl") for q in read_jsonl(file, Question)}
    if leaked := [prompt for prompt in prompts if normalize(prompt) in asked]:
        raise UserError(f"{data} trains on questions of a suite, reword them: {'; '.join(leaked)}")


def plan_manners(voice: Voice, questions: list[MannerQuestion], number: int, split: str, seed: int) -> list[Telling]:
    """`number` questions, each in a manner drawn for it; of the split `test` in held-out voices."""
    allowed = voices.training_voices(voice) if split == "train" else voice.heldout_voices
    rng, tellings = np.random.default_rng([seed, number]), []
    for i in range(number):
        question = questions[rng.integers(len(questions))]
        value = str(rng.choice(sorted(SETTINGS[question.trait])))
        manner, key = Manner(trait=question.trait, value=value), f"{split}-manner-{i}"
        setting = setting_of(manner)
        condition = str(rng.choice(setting.conditions)) if setting.conditions else draw_condition(voice, key)
        speech = draw_speech(voice, key, allowed, key, "manners", split, question.prompt, setting)
        tellings.append(Telling(draw_clip(voice, key, condition, speech), manner, question.answers[value]))
    return tellings


def plan_ordinary(voice: Voice, rows: list[Row]) -> list[Telling]:
    """The rows' queries, in every condition of training."""
    allowed, tellings = voices.training_voices(voice), []
    for row in rows:
        key = f"ordinary-{row.id}"
        speech = draw_speech(voice, key, allowed, row.id, ALIGNMENT, "train", row.prompt, Setting())
        tellings.append(Telling(draw_clip(voice, key, draw_condition(voice, key), speech)))
    return tellings


def hear(student: Student, tellings: list[Telling], voice: Voice, data: Path) -> list[SoftTokens]:
    """What the student hears of each clip, in order; like lengths are heard together."""
    talkers = voices.plan_talkers(voice, data)
    sound = [record(telling.clip, talkers) for telling in tqdm(tellings, desc="speak", mininterval=2)]
    order, heard = sorted(range(len(sound)), key=lambda i: len(sound[i])), {}
    for start in tqdm(range(0, len(order), BATCH), desc="hear", mininterval=2):
        chosen = order[start : start + BATCH]
        spoken, _ = student.listen([sound[i] for i in chosen])
        heard |= dict(zip(chosen, spoken, strict=True))
    return [heard[i] for i in range(len(tellings))]


def record(clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    speech = voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones)
    return in_condition(speech, clip, talkers)[: MAX_CLIP_S * SAMPLE_RATE]


@torch.no_grad()
def read_traits(projector: AcousticProjector, tellings: list[Telling], heard: list[SoftTokens]) -> None:
    """The projector tells each trait from the sound, by logistic regression over all clips that have a value of it."""
    sound = torch.stack([spoken.acoustics for spoken in heard])
    projector.mean.copy_(sound.mean(0))
    projector.deviation.copy_(sound.std(0))
    scaled = ((sound - projector.mean) / projector.deviation).numpy()
    for place, trait in enumerate(TRAITS):
        first, other = (SETTINGS[trait][value] for value in sorted(SETTINGS[trait]))
        known = [i for i, t in enumerate(tellings) if first.holds(t.clip) or other.holds(t.clip)]
        values = [first.holds(tellings[i].clip) for i in known]
        fit(projector.traits, place, scaled[known], values, LogisticRegression(C=TRAITS_C, max_iter=1000))


@torch.no_grad()
def read_questions(
    student: Student, questions: list[MannerQuestion], ordinary: list[str], tellings: list[Telling],
    heard: list[SoftTokens],
) -> None:  # fmt: skip
    """The projector tells what is asked from the sum of the words' embeddings, written and as they were heard."""
    asked = [q.trait for q in questions] + [None] * len(ordinary) + [t.manner and t.manner.trait for t in tellings]
    prompts = student.read([q.prompt for q in questions] + ordinary) + heard
    sums = torch.stack([student.words(prompt).sum(0) for prompt in prompts]).numpy()
    regression = LogisticRegression(C=ASKED_C, max_iter=1000, class_weight={True: ASKED_WEIGHT, False: 1})
    for place, trait in enumerate(TRAITS):
        fit(student.acoustic_projector.asked, place, sums, [name == trait for name in asked], regression)


def fit(
    layer: torch.nn.Linear, place: int, inputs: np.ndarray, values: list[bool], regression: LogisticRegression
) -> None:
    """Output `place` of `layer` becomes the log-odds of `values`; where all are alike, it stays 0."""
    if len(set(values)) == 2:
        fitted = regression.fit(inputs, values)
        layer.weight[place] = torch.tensor(fitted.coef_[0])
        layer.bias[place] = float(fitted.intercept_[0])


def train(student: Student, tellings: list[Telling], heard: list[SoftTokens], settings: Acoustics, work: Path) -> Log:
    set_seed(settings.seed)
    student.requires_grad_(False)
    student.acoustic_projector.outer.requires_grad_(True)
    log = Log(work / "log.jsonl")
    arguments = common(work / "acoustics", steps=settings.max_steps, seed=settings.seed, save_steps=settings.save_steps)
    arguments |= {"warmup_steps": settings.max_steps // 10, "learning_rate": settings.learning_rate}
    args = TrainingArguments(**arguments, per_device_train_batch_size=settings.per_device_train_batch_size)
    end = student.tokenizer.eos_token_id
    told = [
        Told(spoken, [*student.tokenizer(telling.answer, add_special_tokens=False).input_ids, end])
        for telling, spoken in zip(tellings, heard, strict=True)
        if telling.manner
    ]
    trainer = AcousticTrainer(student, args, data_collator=collate, train_dataset=told, callbacks=[log])
    resume(trainer, log, "acoustics", settings.max_steps)
    student.eval()
    return log


def accuracies(student: Student, tellings: list[Telling], heard: list[SoftTokens]) -> dict[str, float]:
    """The share of right answers by trait."""
    sampling = {"max_new_tokens": 24, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 64}
    ids = student.answer(heard, **sampling)
    right = defaultdict(list)
    for telling, answer in zip(tellings, ids, strict=True):
        response = student.tokenizer.decode(answer, skip_special_tokens=True)
        right[telling.manner.trait].append(contains_answer(response, [telling.answer]))
    return {trait: round(float(np.mean(found)), 3) for trait, found in sorted(right.items())}


def card(params: Params, facts: dict) -> str:
    """The model card: what it was trained on, how, and what it tells."""
    lines = "\n".join(
        f"| {trait} | {facts['before'][trait]:.2f} | {share:.2f} |" for trait, share in facts["after"].items()
    )
    return f"""# How it was said

The acoustic projector of speech-rba, made by `make ears` in {facts["minutes"]:.0f} minutes.

- Input: mean and deviation over time of the first encoder layer of the ears, from which logistic regression tells \
each trait; and the sum of the words' embeddings, from which it tells the trait asked about. Where one is asked \
about, its value becomes an offset to the embeddings between query and answer.
- Data: {facts["num_manner_clips"]} questions of `data/manners.jsonl` in known manners, \
{facts["num_ordinary_clips"]} ordinary questions, and {facts["num_ordinary_texts"]} written ones; no person recorded.
- Loss: cross-entropy of the answers.

Right answers to the trained questions, in the {len(params.voice.heldout_voices)} held-out voices \
({facts["num_checked"]} clips; guessing gives at most 0.5):

| trait | before | after |
|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main(run)
