"""A student that is served: how it is loaded, and its answer to a question, piece by piece."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from speech_rba.errors import UserError
from speech_rba.model.answering import NOTHING_HEARD, AlignedStudent, answer_result
from speech_rba.model.audio_tower import Word
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.student import Student

Part = str | np.ndarray  # of a question: written text, or a clip (float32, 16 kHz mono)


@dataclass(frozen=True)
class Prompt:
    """A question as the student takes it; of one without a clip there is no hypothesis."""

    prompt: SoftTokens
    num_tokens: int  # the chat template included
    hypothesis: str | None = None
    words: tuple[Word, ...] = ()
    no_speech: str | None = None


def load(base: Path, adapter: Path | None) -> AlignedStudent:
    """The student in float32, as evaluation and the registry load it, with all parts in memory."""
    aligned = AlignedStudent(base, adapter, torch.float32)
    aligned.student.get_ready()
    return aligned


def answer(aligned: AlignedStudent, parts: list[Part]) -> Iterator[Prompt | str]:
    """The prompt that the student makes of a question, then the pieces of its answer.

    Raises:
        UserError: a clip is too long or empty, or this student takes no text beside a clip.
    """
    prompt = build_prompt(aligned.student, parts)
    yield prompt
    if prompt.no_speech:
        yield NOTHING_HEARD
    else:
        yield from aligned.stream(prompt.prompt)


def build_prompt(student: SpeechStudent, parts: list[Part]) -> Prompt:
    """The prompt of a question of at most one clip, with what is written before and after it."""
    clips = [part for part in parts if not isinstance(part, str)]
    if not clips:
        [prompt] = student.text_prompts(["\n".join(map(str, parts))])
        return Prompt(prompt, num_tokens(student, prompt))
    if len(parts) > 1 and not isinstance(student, Student):
        raise UserError("this student takes no text beside a recording: send the recording alone")
    [hypothesis] = student.transcribe_exactly(clips)
    place = next(i for i, part in enumerate(parts) if not isinstance(part, str))
    before, after = ("\n".join(map(str, texts)) for texts in (parts[:place], parts[place + 1 :]))
    prompt = beside(student, before, student.build_prompt(hypothesis), after)
    result = answer_result(student, hypothesis, "")
    return Prompt(prompt, num_tokens(student, prompt), result.hypothesis, result.words, result.no_speech)


def beside(student: SpeechStudent, before: str, spoken: SoftTokens, after: str) -> SoftTokens:
    """A spoken prompt with lines of text around it."""
    texts = [f"{before}\n" if before else "", f"\n{after}" if after else ""]
    if not any(texts):
        return spoken
    first, last = student.text_prompts(texts)
    width = spoken.ids.shape[1]
    parts = [first, spoken, last]
    return SoftTokens(
        torch.cat([torch.nn.functional.pad(p.ids, (0, width - p.ids.shape[1])) for p in parts]),
        torch.cat([torch.nn.functional.pad(p.weights, (0, width - p.weights.shape[1])) for p in parts]),
        torch.cat([p.hidden for p in parts]),
        spoken.attribute_features,
    )


@torch.inference_mode()
def num_tokens(student: SpeechStudent, prompt: SoftTokens) -> int:
    """The positions of the language model's input."""
    [embeds] = student.prompt_embeds([prompt])
    return len(student.prefix_ids) + len(embeds)


def recognized(prompt: Prompt) -> dict:
    """What the student transcribed; a field of this project beside OpenAI's."""
    words = [asdict(word) | {"uncertain": word.uncertain} for word in prompt.words]
    return {"transcript": prompt.hypothesis, "words": words, "no_speech": prompt.no_speech}
