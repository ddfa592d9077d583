"""Spoken questions in, written answers out: the student with its adapter, as it is evaluated and served."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speech_rba.model.audio_tower import Hypothesis, Word
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.logps import sequence_logps
from speech_rba.model.lora import Adapter
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.students import load_student
from speech_rba.model.text import settled, whole_sentences

BATCH = 64  # prompts answered together; the answers do not depend on it


NOTHING_HEARD = "I could not make out any speech. Please say it again."


@dataclass(frozen=True)
class AnswerResult:
    hypothesis: str | None  # None of a student without a transcript
    response: str
    words: tuple[Word, ...] = ()
    no_speech: str | None = None  # why nothing was transcribed


def load_answerer(base: Path, adapter: Path | None) -> Callable[[list[np.ndarray]], list[AnswerResult]]:
    """A function that answers clips (float32, 16 kHz mono, at most 30 minutes), as evaluation does.

    It computes in float32 everywhere, so that a version answers on one processor as on another.
    """
    aligned = AlignedStudent(base, adapter, torch.float32)
    aligned.student.get_ready()

    def answer(clips: list[np.ndarray]) -> list[AnswerResult]:
        hypotheses = aligned.student.transcribe_exactly(clips)
        responses, _ = aligned.respond([aligned.student.build_prompt(h) for h in hypotheses])
        return [answer_result(aligned.student, h, r) for h, r in zip(hypotheses, responses, strict=True)]

    return answer


def answer_result(student: SpeechStudent, hypothesis: Hypothesis, response: str) -> AnswerResult:
    """What a listener is told of a clip: its transcript, each word's probability, and the response."""
    words = student.transcript_words(hypothesis)
    return AnswerResult(student.transcript(hypothesis), response, words, hypothesis.no_speech)


class AlignedStudent:
    """The student in `base` with an adapter that takes part where the ASR uncertainty is high.

    A student with the teacher's weights answers a certain transcript as the teacher does; the adapter would
    change that answer.
    """

    def __init__(self, base: Path, adapter: Path | None, dtype: torch.dtype):
        self.student = load_student(base, dtype)
        self.adapter: Adapter | None = None
        self.use_adapter(adapter)

    def use_adapter(self, adapter: Path | None) -> None:
        """Puts `adapter` in the place of the present one; None leaves the student without."""
        if self.adapter:
            self.adapter.remove()
        self.adapter = Adapter(self.student, adapter) if adapter else None

    def adapts(self, prompt: SoftTokens) -> bool:
        """Whether the adapter takes part in the answer to `prompt`."""
        threshold = self.student.config.adapter_min_asr_uncertainty
        return self.adapter is not None and prompt.asr_uncertainty >= threshold

    def answer(self, prompts: list[SoftTokens], **sampling) -> list[list[int]]:
        """As `Student.answer`."""
        return self._apart(prompts, lambda p, _: self.student.answer(p, **sampling), prompts)

    def respond(
        self, prompts: list[SoftTokens], on_batch: Callable[[int], None] = lambda rows: None
    ) -> tuple[list[str], int]:
        """The text of the greedy answer to each prompt, and the number of tokens of all.

        NOTHING_HEARD is the answer to a prompt without positions, which a clip without speech has. An answer
        that the token limit cut ends with its last whole sentence; one without a whole sentence stays as it
        is.
        """
        limit = self.student.config.max_completion_tokens
        greedy = {"temperature": 0.0, "top_p": 1.0, "seed": 0, "max_new_tokens": limit}
        spoken = [prompt for prompt in prompts if len(prompt)]
        ids = self.answer(spoken, batch_size=BATCH, on_batch=on_batch, **greedy) if spoken else []
        on_batch(len(prompts) - len(spoken))
        responses = iter([self._response(i) for i in ids])
        return [next(responses) if len(p) else NOTHING_HEARD for p in prompts], sum(map(len, ids))

    def stream(self, prompt: SoftTokens) -> Iterator[str]:
        """The pieces of the greedy answer to `prompt`, each when it is certain to stay: together the text of
        `respond`.

        The first sentence comes token by token, a later one when it has ended, since the token limit may cut
        it.
        """
        if not len(prompt):
            yield NOTHING_HEARD
            return
        given, ids = "", []
        with self._adapted(self.adapts(prompt)):
            for token_id in self.student.stream(prompt, self.student.config.max_completion_tokens):
                ids.append(token_id)
                text = settled(str(self.student.tokenizer.decode(ids, skip_special_tokens=True)))
                if len(text) > len(given):
                    yield text[len(given) :]
                    given = text
        if rest := self._response(ids)[len(given) :]:
            yield rest

    def _response(self, ids: list[int]) -> str:
        tokenizer = self.student.tokenizer
        text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return whole_sentences(text, ids[-1] == tokenizer.eos_token_id) or text

    def logps(self, prompts: list[SoftTokens], completions: list[list[int]]) -> list[float]:
        """log p of each completion given its prompt, in nats."""
        return self._apart(prompts, lambda p, c: sequence_logps(self.student, p, c).tolist(), completions)

    def _apart(self, prompts: list[SoftTokens], compute: Callable[[list, list], list], others: list) -> list:
        """compute(prompts, others) in the order of `prompts`: with the adapter for those that it adapts,
        without it for the others."""
        results: list = [None] * len(prompts)
        for adapted in (False, True):
            places = [i for i, prompt in enumerate(prompts) if self.adapts(prompt) == adapted]
            if places:
                with self._adapted(adapted):
                    part = compute([prompts[i] for i in places], [others[i] for i in places])
                for place, result in zip(places, part, strict=True):
                    results[place] = result
        return results

    def _adapted(self, adapted: bool) -> AbstractContextManager:
        """A context in which the adapter takes part, or does not."""
        return nullcontext() if adapted or self.adapter is None else self.adapter.disabled()
