"""Word error rates on recordings that are only transcribed, by set, speaker and condition.

A set is the subfolder of a recording. The student is compared with the unadapted Whisper on the same clips;
intervals resample whole speakers, because the clips of a speaker depend on each other.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

import jiwer

from speech_rba.config import Evaluate
from speech_rba.data.measures import normalize
from speech_rba.evaluation.items import Item
from speech_rba.evaluation.scorers import SCORERS
from speech_rba.evaluation.statistics import paired_rate_bootstrap, rate_bootstrap
from speech_rba.records import ALIGNMENT, RECORDED

WHISPER, STUDENT = "Whisper", "student"
ALL, SENTENCES, WORDS = "all", "sentences", "single words"  # sets besides the subfolders
QUESTION_WORDS = {"what", "who", "whom", "whose", "which", "when", "where", "why", "how"}
# A written text without punctuation that begins with one of these may be a question.
AUXILIARIES = {"am", "is", "are", "was", "were", "do", "does", "did", "have", "has", "had", "can", "could"}
AUXILIARIES |= {"will", "would", "shall", "should", "may", "might", "must"}
MAX_RATIO = 3  # of words transcribed to words spoken, above which a transcript is counted as too long


@dataclass(frozen=True)
class Transcribed:
    """One clip with its reference and the hypotheses of two transcribers."""

    suite: str
    folder: str  # its set
    speaker: str
    condition: str
    reference: str
    hypotheses: dict[str, str]

    @property
    def num_words(self) -> int:
        return len(normalize(self.reference).split())


def transcribed_clip(
    suite: str, row_id: str, voice: str, condition: str, reference: str, hypotheses: dict[str, str]
) -> Transcribed:
    """The clip of the recording `row_id`, which counts as a speaker where none is named."""
    parts = PurePosixPath(row_id).parts
    speaker = row_id if voice == RECORDED else voice
    return Transcribed(suite, parts[0] if len(parts) > 1 else "", speaker, condition, reference, hypotheses)


def people_table(items: list[Item], settings: Evaluate) -> list[dict]:
    """As `error_rates`, of the items that are only transcribed; none where the student has no transcript."""
    clips = [
        transcribed_clip(
            item.suite,
            item.row_id,
            item.voice,
            item.condition,
            item.prompt,
            {WHISPER: item.judge_hypothesis, STUDENT: item.student_hypothesis},
        )
        for item in items
        if item.student_hypothesis is not None and only_transcribed(item)
    ]
    return error_rates(clips, settings.num_bootstrap, settings.seed)


def only_transcribed(item: Item) -> bool:
    """Whether the clip is of a suite and its question has no target."""
    return item.suite != ALIGNMENT and not any(item.question.target(kind) for kind in SCORERS)


def error_rates(clips: list[Transcribed], num_bootstrap: int, seed: int) -> list[dict]:
    """A row for each suite, set and condition with a word to recognize.

    Keys: suite, set, condition, n (clips), num_speakers, num_words; `transcribers`, a list of {transcriber,
    wer, low, high, num_questions, num_too_long}; `num_statements`, of which `num_questions` were transcribed
    as questions; `difference`, {value, low, high, p_value} of the second transcriber minus the first.
    Intervals are None with a single speaker.
    """
    rows = []
    for suite in dict.fromkeys(clip.suite for clip in clips):
        of_suite = [clip for clip in clips if clip.suite == suite]
        for name, in_set in sets(of_suite).items():
            for condition, in_condition in conditions(in_set).items():
                if sum(clip.num_words for clip in in_condition):
                    labels = {"suite": suite, "set": name, "condition": condition}
                    rows.append(labels | error_rate(in_condition, num_bootstrap, seed))
    return rows


def sets(clips: list[Transcribed]) -> dict[str, list[Transcribed]]:
    """All clips, sentences and single words where there are both, the subfolders where there are several."""
    groups = {ALL: clips}
    lengths: dict[str, list[Transcribed]] = {SENTENCES: [], WORDS: []}
    for clip in clips:
        lengths[SENTENCES if len(clip.reference.split()) > 1 else WORDS].append(clip)
    folders: dict[str, list[Transcribed]] = {}
    for clip in clips:
        folders.setdefault(clip.folder or "without a folder", []).append(clip)
    for parts in (lengths, folders):
        if sum(bool(part) for part in parts.values()) > 1:
            groups |= parts
    return groups


def conditions(clips: list[Transcribed]) -> dict[str, list[Transcribed]]:
    """The clips as recorded ("clean"), all degraded ones, and those of each degraded condition."""
    groups: dict[str, list[Transcribed]] = {"clean": [], "degraded": []}
    for clip in clips:
        groups.setdefault(clip.condition, []).append(clip)
        if clip.condition != "clean":
            groups["degraded"].append(clip)
    return {name: group for name, group in groups.items() if group}


def error_rate(clips: list[Transcribed], num_bootstrap: int, seed: int) -> dict:
    """The row of `error_rates` without its labels."""
    speakers = [clip.speaker for clip in clips]
    words = [clip.num_words for clip in clips]
    names = list(clips[0].hypotheses)
    errors = {name: [word_errors(c.reference, c.hypotheses[name]) for c in clips] for name in names}
    rates = {name: rate_bootstrap(errors[name], words, num_bootstrap, seed, speakers) for name in names}
    first, second = errors.values()
    pair = paired_rate_bootstrap(second, first, words, num_bootstrap, seed, speakers)
    return {
        "n": len(clips),
        "num_speakers": len(set(speakers)),
        "num_words": sum(words),
        "num_statements": sum(not may_be_question(clip.reference) for clip in clips),
        "transcribers": [
            {"transcriber": name} | with_interval("wer", rates[name], speakers) | faults(clips, name)
            for name in names
        ],
        "difference": with_interval("value", pair, speakers),
    }


def faults(clips: list[Transcribed], transcriber: str) -> dict[str, int]:
    """How many statements were transcribed as questions, and how many transcripts are too long."""
    texts = [(clip.reference, clip.hypotheses[transcriber]) for clip in clips]
    questions = [is_question(text) and not may_be_question(reference) for reference, text in texts]
    too_long = [is_too_long(reference, text) for reference, text in texts]
    return {"num_questions": sum(questions), "num_too_long": sum(too_long)}


def with_interval(name: str, estimate: tuple[float, ...], speakers: list[str]) -> dict:
    """{name, low, high}, and for a difference p_value; one speaker has no interval."""
    keys = [name, "low", "high", "p_value"][: len(estimate)]
    if len(set(speakers)) == 1:
        return dict.fromkeys(keys) | {name: estimate[0]}
    return dict(zip(keys, estimate, strict=True))


def word_errors(reference: str, hypothesis: str) -> int:
    """Substitutions, deletions and insertions, after `normalize`."""
    words = jiwer.process_words(normalize(reference), normalize(hypothesis))
    return words.substitutions + words.deletions + words.insertions


def is_question(text: str) -> bool:
    """Whether a transcript ends with a question mark or begins with a question word."""
    return text.rstrip().endswith("?") or first_word(text) in QUESTION_WORDS


def may_be_question(text: str) -> bool:
    """Whether a written text, perhaps without punctuation, can be a question."""
    return is_question(text) or first_word(text) in AUXILIARIES


def first_word(text: str) -> str:
    return next(iter(normalize(text).split()), "")


def is_too_long(reference: str, hypothesis: str) -> bool:
    """Whether a transcript has more than MAX_RATIO times the written words of the reference."""
    # not normalised: that joins "seven, seven, seven" to one number
    return len(hypothesis.split()) > MAX_RATIO * len(reference.split())
