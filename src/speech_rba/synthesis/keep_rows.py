"""The rows that a task keeps of the teacher's rounds, and the rejected candidates with their reasons."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from speech_rba.config import Params, Synthesize
from speech_rba.data.ifeval import followed_share
from speech_rba.errors import UserError
from speech_rba.model.text import whole_sentences
from speech_rba.records import (
    Message,
    Rejected,
    Row,
    Sampling,
    Split,
    Task,
    read_jsonl,
    write_jsonl,
)
from speech_rba.synthesis.filters import NearDuplicates, completion_fault, query_fault, translation_fault
from speech_rba.synthesis.prompts import template_hash
from speech_rba.synthesis.quotas import NUM_ROWS, quotas, split_of, text_digest
from speech_rba.synthesis.teacher import Teacher, load_teacher
from speech_rba.synthesis.write_round import Candidate, Round, Sources, answer_feedback, write_round

MAX_ROUNDS = 200  # a teacher that writes next to nothing usable is an error, not an endless loop


@dataclass
class Writer:
    """Gives rounds of candidates, and counts tokens and seconds; a round that `work` holds is not written
    again."""

    params: Params
    sources: Sources
    work: Path
    tokens: int = 0
    seconds: float = 0.0

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher(self.params.assets)

    def candidates(self, task: Task, number: int) -> list[Candidate]:
        """The candidates of a round, from `work` or from the teacher."""
        current = Round(task, number, self.params.synthesize)
        return self._written(
            f"{task}-{number:03}",
            lambda teacher: write_round(teacher, self.params, self.sources, current),
        )

    def feedback(self, prompts: list[str]) -> list[Candidate]:
        """The candidates of people's prompts, from `work` or from the teacher."""
        return self._written("feedback", lambda teacher: answer_feedback(teacher, self.params, prompts))

    def _written(self, name: str, write: Callable[[Teacher], list[Candidate]]) -> list[Candidate]:
        path = self.work / f"{name}.jsonl"
        if not path.exists():
            teacher, began = self.teacher, time.perf_counter()  # the time to load the teacher does not count
            written = write(teacher)
            self.seconds += time.perf_counter() - began
            self.tokens += sum(candidate.num_tokens for candidate in written)
            write_jsonl(path, written)
        return read_jsonl(path, Candidate)


def kept_rows(writer: Writer, task: Task, duplicates: NearDuplicates) -> Iterator[Row | Rejected]:
    """Each candidate of a task, kept or rejected, until every split has its rows.

    Raises:
        UserError: MAX_ROUNDS rounds are too few.
    """
    params, setting = writer.params, NUM_ROWS[task]
    left = quotas(params.synthesize, getattr(params.synthesize, setting))
    num_rows = left.total()
    name = f"synthesize {setting.removeprefix('num_')}"
    with tqdm(total=num_rows, desc=name, mininterval=2, disable=not num_rows) as bar:
        for number in range(MAX_ROUNDS):
            if not left.total():
                return
            for candidate in writer.candidates(task, number):
                split = split_of(candidate.prompt, params.synthesize)
                if reason := fault(candidate, params, duplicates) if left[split] else "surplus":
                    yield rejected(candidate, reason)
                else:
                    yield kept(candidate, split, params)
                    left[split] -= 1
                    bar.update()
    if left.total():
        raise UserError(
            f"after {MAX_ROUNDS} rounds {left.total()} of {num_rows} texts are missing ({dict(left)}): lower "
            f"synthesize.{setting}, or loosen the filters of synthesize"
        )


def kept_feedback(writer: Writer, prompts: list[str], duplicates: NearDuplicates) -> Iterator[Row | Rejected]:
    """Each of people's prompts with the teacher's answer, kept or rejected; all that pass are kept."""
    for candidate in writer.feedback(prompts) if prompts else []:
        if reason := fault(candidate, writer.params, duplicates):
            yield rejected(candidate, reason)
        else:
            yield kept(candidate, split_of(candidate.prompt, writer.params.synthesize), writer.params)


def fault(candidate: Candidate, params: Params, duplicates: NearDuplicates) -> str | None:
    """The first rule that the candidate breaks, or None, and its prompt is one of `duplicates`."""
    settings, language = params.synthesize, params.assets.target_language
    completion = whole_sentences(candidate.completion, candidate.completion_finished)
    return (
        query_fault(candidate.prompt, candidate.prompt_finished, settings.min_words, settings.max_words)
        or completion_fault(completion)
        or (translation_fault(candidate.prompt, completion, language) if language else None)
        or ("not_followed" if followed_share(completion, candidate.instructions) < 1 else None)
        or ("round_trip" if changes_meaning(candidate, settings) else None)
        or duplicates.add(candidate.prompt)
    )


def changes_meaning(candidate: Candidate, settings: Synthesize) -> bool:
    """Whether a translation, translated back, is too far from its source."""
    return candidate.round_trip is not None and candidate.round_trip < settings.min_round_trip


def rejected(candidate: Candidate, reason: str) -> Rejected:
    """The record of a candidate that breaks the rule `reason`."""
    return Rejected(
        task=candidate.task, prompt=candidate.prompt, completion=candidate.completion, reason=reason
    )


def kept(candidate: Candidate, split: Split, params: Params) -> Row:
    """The row of a candidate that breaks no rule; its completion ends with a whole sentence."""
    settings, assets = params.synthesize, params.assets
    completion = whole_sentences(candidate.completion, candidate.completion_finished)
    return Row(
        id=f"{candidate.task[0]}-{text_digest(candidate.prompt)[:6].hex()}",
        task=candidate.task,
        split=split,
        messages=[
            Message(role="user", content=candidate.prompt),
            Message(role="assistant", content=completion),
        ],
        prompt=candidate.prompt,
        completion=completion,
        completion_ended=candidate.completion_finished,
        teacher=assets.teacher,
        template_hash=template_hash(f"{candidate.task} {assets.target_language or assets.system_prompt}"),
        sampling=Sampling(
            temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_query_tokens
        ),
        seed=settings.seed,
        instructions=candidate.instructions,
    )
