"""Training of the attribute head: it passes a clip's paralinguistic attributes on to the language model.

Logistic regressions give it each attribute from the audio and the attribute in question from the words. Then
the offsets to the language model's embeddings are trained; the loss is the cross-entropy of the answers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import Cache, Trainer, TrainingArguments, set_seed
from transformers.cache_utils import DynamicLayer

from speech_rba.alignment.trainer import TrainingLog, train_from_checkpoint, trainer_arguments
from speech_rba.config import Attributes
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.generation import prefill
from speech_rba.model.language import embed
from speech_rba.model.logps import pad_right
from speech_rba.model.student import AttributeHead, Student
from speech_rba.pretraining.attribute_clips import AttributeClip
from speech_rba.records import ATTRIBUTES, AttributeQuestion
from speech_rba.synthesis.plan_clips import SETTINGS

AUDIO_C, WORDS_C = 0.1, 0.003  # of the logistic regressions: hundreds of inputs, few clips
QUESTION_WEIGHT = 3  # of a question about an attribute: there are three times as many about none


@torch.no_grad()
def fit_attributes(head: AttributeHead, clips: list[AttributeClip], prompts: list[SoftTokens]) -> None:
    """The head gives each attribute of a clip from its audio features, by logistic regression over all clips
    that have one of its two values."""
    features = torch.stack([prompt.attribute_features for prompt in prompts])
    head.mean.copy_(features.mean(0))
    head.deviation.copy_(features.std(0))
    scaled = ((features - head.mean) / head.deviation).numpy()
    for place, name in enumerate(ATTRIBUTES):
        first, second = (SETTINGS[name][value] for value in sorted(SETTINGS[name]))
        known = [i for i, c in enumerate(clips) if first.holds(c.clip) or second.holds(c.clip)]
        is_first = [first.holds(clips[i].clip) for i in known]
        regression = LogisticRegression(C=AUDIO_C, max_iter=1000)
        fit_output(head.attributes, place, scaled[known], is_first, regression)


@torch.no_grad()
def fit_question_attributes(
    student: Student,
    questions: list[AttributeQuestion],
    ordinary: list[str],
    clips: list[AttributeClip],
    prompts: list[SoftTokens],
) -> None:
    """The head gives the attribute that a query is about from the sum of its word embeddings.

    Its training data are the written `questions`, the `ordinary` texts, which are about none, and the clips'
    prompts.
    """
    names = [question.name for question in questions] + [None] * len(ordinary)
    names += [clip.attribute.name if clip.attribute else None for clip in clips]
    texts = [question.prompt for question in questions] + ordinary
    all_prompts = student.text_prompts(texts) + prompts
    sums = torch.stack([student.words(prompt).sum(0) for prompt in all_prompts]).numpy()
    class_weight = {True: QUESTION_WEIGHT, False: 1}
    regression = LogisticRegression(C=WORDS_C, max_iter=1000, class_weight=class_weight)
    for place, name in enumerate(ATTRIBUTES):
        is_about = [other == name for other in names]
        fit_output(student.attribute_head.question, place, sums, is_about, regression)


def fit_output(
    layer: torch.nn.Linear, place: int, inputs: np.ndarray, values: list[bool], regression: LogisticRegression
) -> None:
    """Output `place` of `layer` becomes the log-odds of `values`; it stays 0 where all values are equal."""
    if len(set(values)) == 2:
        fitted = regression.fit(inputs, values)
        layer.weight[place] = torch.tensor(fitted.coef_[0])
        layer.bias[place] = float(fitted.intercept_[0])


@dataclass(frozen=True)
class AttributeExample:
    """The prompt of a clip that asks about an attribute, and the answer."""

    spoken: SoftTokens
    completion_ids: list[int]


def train_offsets(
    student: Student, examples: list[AttributeExample], settings: Attributes, work: Path
) -> TrainingLog:
    """The log; the offsets of the student's attribute head are trained. A killed training resumes from
    `work`."""
    set_seed(settings.seed)
    student.requires_grad_(False)
    student.attribute_head.offset.requires_grad_(True)
    log = TrainingLog(work / "log.jsonl")
    arguments = trainer_arguments(work / "attributes", settings.max_steps, settings.seed, settings.save_steps)
    arguments |= {"warmup_steps": settings.max_steps // 10, "learning_rate": settings.learning_rate}
    args = TrainingArguments(**arguments, per_device_train_batch_size=settings.per_device_train_batch_size)
    trainer = AttributeTrainer(student, args, data_collator=collate, train_dataset=examples, callbacks=[log])
    train_from_checkpoint(trainer, log, "attributes")
    student.eval()
    return log


def attribute_examples(
    student: Student, clips: list[AttributeClip], prompts: list[SoftTokens]
) -> list[AttributeExample]:
    """Those of the clips that ask about an attribute."""
    eos = student.tokenizer.eos_token_id
    return [
        AttributeExample(prompt, [*student.tokenizer(clip.answer, add_special_tokens=False).input_ids, eos])
        for clip, prompt in zip(clips, prompts, strict=True)
        if clip.attribute
    ]


class AttributeTrainer(Trainer):
    """transformers' Trainer over AttributeExamples; the loss is the cross-entropy of the answers' tokens."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        examples = inputs["examples"]
        logprobs_NV = answer_logprobs(model, examples)
        ids_N = torch.tensor([i for e in examples for i in e.completion_ids], device=logprobs_NV.device)
        loss = torch.nn.functional.nll_loss(logprobs_NV, ids_N)
        return (loss, {}) if return_outputs else loss


def collate(examples: list[AttributeExample]) -> dict[str, list[AttributeExample]]:
    return {"examples": examples}


def answer_logprobs(student: Student, examples: list[AttributeExample]) -> torch.Tensor:
    """Log-probabilities (N, V) of the N completion tokens, row by row.

    Only the positions after the query depend on the attribute head: those before are computed without
    gradients.
    """
    model, num_after = student.language_model, len(student.suffix_ids)
    ids, kept = (t.to(model.device) for t in pad_right([e.completion_ids for e in examples], 0))
    prompt_embeds = student.prompt_embeds([example.spoken for example in examples])
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    with torch.no_grad():
        queries = [embeds[:-num_after] for embeds in prompt_embeds]
        _, query_mask = prefill(model, embed(model, student.prefix_ids), queries, cache)
    suffixes = torch.stack([embeds[-num_after:] for embeds in prompt_embeds])
    inputs_embeds = torch.cat([suffixes, model.get_input_embeddings()(ids[:, :-1])], dim=1)
    new_mask = torch.cat([query_mask.new_ones(len(examples), num_after), kept[:, :-1]], dim=1)
    positions = torch.arange(new_mask.shape[1], device=ids.device)
    hidden = model.base_model(
        inputs_embeds=inputs_embeds,
        attention_mask=torch.cat([query_mask, new_mask], dim=1),
        position_ids=query_mask.sum(1, keepdim=True) + positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return model.get_output_embeddings()(hidden[:, num_after - 1 :][kept.bool()]).float().log_softmax(-1)
