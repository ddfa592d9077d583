"""The answers of all systems: text, cascade, base and every method.

Equal prompts of a row are answered once. A method answers only the prompts in which its adapter takes part;
it shares the other answers with base.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from speech_rba.evaluation.items import Item, first_of_rows
from speech_rba.evaluation.scorers import score_response
from speech_rba.evaluation.text_measures import Embedder, reference_scores
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import Answer

Key = tuple  # of a prompt, by `prompt_key`
Scored = tuple[str, dict[str, float]]  # a response and its metrics


@dataclass(frozen=True)
class Prompts:
    """The prompts that a system answers, each of one item: clips, or the texts of rows."""

    items: list[Item]
    prompts: list[SoftTokens]
    keys: list[Key]
    is_text: bool

    def one_of_each(self, keys: set[Key]) -> "Prompts":
        """One prompt of each of these keys, in the order in which the keys come first."""
        places = [place for key, place in self.places().items() if key in keys]
        return Prompts(
            [self.items[place] for place in places],
            [self.prompts[place] for place in places],
            [self.keys[place] for place in places],
            self.is_text,
        )

    def places(self) -> dict[Key, int]:
        """The last place of each key."""
        return {key: place for place, key in enumerate(self.keys)}


def answer_all(
    answering: AlignedStudent, embed: Embedder, items: list[Item], adapters: dict[str, Path]
) -> tuple[list[Answer], list[dict]]:
    """The scored answers of every system to its prompts, and the cost of each system's answers.

    A method answers the texts too. Afterwards `answering` has no adapter.
    """
    student = answering.student
    text, transcribed, spoken = (
        text_prompts(student, items),
        transcripts(student, items),
        speech(student, items),
    )
    answers: list[Answer] = []
    costs: list[dict] = []
    unadapted: dict[Key, Scored] = {}
    for system, prompts in (("text", text), ("cascade", transcribed), ("base", spoken)):
        unanswered = prompts.one_of_each(set(prompts.keys) - set(unadapted))
        scored, cost = answer_and_score(answering, embed, system, unanswered)
        unadapted |= scored
        answers += rows_of(system, prompts, unadapted)
        costs.append(cost)
    for method, adapter in adapters.items():
        answering.use_adapter(adapter)
        for prompts in (spoken, text):
            keys = {k for k, p in zip(prompts.keys, prompts.prompts, strict=True) if answering.adapts(p)}
            scored, cost = answer_and_score(answering, embed, method, prompts.one_of_each(keys))
            answers += rows_of(method, prompts, unadapted | scored)
            if prompts is spoken:
                costs.append(cost)
    answering.use_adapter(None)
    return answers, costs


def text_prompts(student: SpeechStudent, items: list[Item]) -> Prompts:
    """The written prompt of each row."""
    first = first_of_rows(items)
    return with_keys(student, first, student.text_prompts([item.prompt for item in first]), is_text=True)


def transcripts(student: SpeechStudent, items: list[Item]) -> Prompts:
    """Whisper's transcript of each clip, which the cascade answers."""
    prompts = student.text_prompts([item.judge_hypothesis for item in items])
    return with_keys(student, items, prompts, is_text=False)


def speech(student: SpeechStudent, items: list[Item]) -> Prompts:
    """The prompt that the student makes of each clip."""
    return with_keys(student, items, [item.spoken for item in items], is_text=False)


def with_keys(student: SpeechStudent, items: list[Item], prompts: list[SoftTokens], is_text: bool) -> Prompts:
    keys = [prompt_key(student, item, prompt) for item, prompt in zip(items, prompts, strict=True)]
    return Prompts(items, prompts, keys, is_text)


def prompt_key(student: SpeechStudent, item: Item, prompt: SoftTokens) -> Key:
    """Equal for two prompts of one row that the unadapted student answers alike."""
    tensors = [prompt.ids, prompt.weights, prompt.hidden]
    if student.uses_attributes(prompt):
        tensors.append(prompt.attribute_features)
    return item.suite, item.row_id, *(tensor.numpy().tobytes() for tensor in tensors)


def answer_and_score(
    answering: AlignedStudent, embed: Embedder, system: str, new: Prompts
) -> tuple[dict[Key, Scored], dict]:
    """The response and metrics of each prompt by its key, and what the responses cost."""
    began = time.perf_counter()
    with tqdm(total=len(new.prompts), desc=f"answer {system}", mininterval=2, disable=not new.prompts) as bar:
        responses, num_tokens = answering.respond(new.prompts, bar.update)
    seconds = time.perf_counter() - began
    audio_s = 0.0 if new.is_text else sum(item.duration_s for item in new.items)
    by_place = reference_scores(answering, embed, new.items, new.prompts, responses)
    scored = {}
    for place, (key, item) in enumerate(zip(new.keys, new.items, strict=True)):
        metrics = by_place.get(place, {}) | score_response(item.question, responses[place])
        scored[key] = (responses[place], metrics)
    return scored, cost_of(system, num_tokens, seconds, audio_s)


def cost_of(system: str, num_tokens: int, seconds: float, audio_s: float) -> dict:
    """Tokens per second, and seconds per second of audio; None where there were none."""
    return {
        "system": system,
        "tokens_per_s": num_tokens / seconds if num_tokens else None,
        "real_time_factor": seconds / audio_s if audio_s else None,
    }


def rows_of(system: str, prompts: Prompts, scored: dict[Key, Scored]) -> list[Answer]:
    return [
        answer_row(system, item, prompts.is_text, *scored[key])
        for item, key in zip(prompts.items, prompts.keys, strict=True)
    ]


def answer_row(system: str, item: Item, is_text: bool, response: str, metrics: dict[str, float]) -> Answer:
    """The row of one answer; an answer to a text has nothing of the clip."""
    return Answer(
        suite=item.suite,
        split=item.split,
        row_id=item.row_id,
        clip_id="" if is_text else item.clip_id,
        system=system,
        condition="text" if is_text else item.condition,
        voice="" if is_text else item.voice,
        heldout_voice=False if is_text else item.heldout_voice,
        snr_db=None if is_text else item.snr_db,
        prompt=item.prompt,
        judge_hypothesis="" if is_text else item.judge_hypothesis,
        hypothesis=None if is_text else item.student_hypothesis,
        response=response,
        metrics=dict(metrics),
    )
