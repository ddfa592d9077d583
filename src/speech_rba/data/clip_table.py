"""The table that the data contract checks: a line for each clip, with its measures and flags."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import pandas as pd

from speech_rba.data.leakage import overlaps
from speech_rba.data.measures import normalize
from speech_rba.records import ALIGNMENT, Clip, Feature, Question, Row

CLIP_COLUMNS = [
    "id",
    "row_id",
    "suite",
    "split",
    "transcript",
    "voice",
    "heldout_voice",
    "condition",
    "heldout_condition",
]
FEATURE_COLUMNS = ["clip_id", "duration_s", "rms_db", "clipped_share", "silence_share", "wer"]

Key = tuple[str, str]  # suite and id of a row or question


@dataclass(frozen=True)
class ClipSet:
    """Clips of synthesized rows or of a suite, and the records that they refer to.

    `unreadable` says for each clip whether its file is missing, changed or without sound.
    """

    clips: list[Clip]
    features: list[Feature]
    rows: list[Row]
    questions: dict[str, list[Question]]  # by suite
    unreadable: list[bool]

    def question_of(self) -> dict[Key, Question]:
        return {(suite, q.id): q for suite, questions in self.questions.items() for q in questions}

    def prompts(self) -> list[str]:
        """The prompts of all suites, which training text must not contain."""
        return [question.prompt for questions in self.questions.values() for question in questions]


def build_clip_table(clip_set: ClipSet, leak_ngram: int) -> pd.DataFrame:
    """A line for each clip, in order; measures are NaN where there are none.

    A training text leaks when it shares `leak_ngram` consecutive words with a question of a suite.
    """
    table = _measured_clips(clip_set)
    keys = list(zip(table.suite, table.row_id, strict=True))
    unreadable = pd.Series(clip_set.unreadable, dtype=bool)
    completions = {row.id: row.completion for row in clip_set.rows}
    completion = table.row_id.map(completions).where(table.suite == ALIGNMENT)
    num_measures = table.id.map(Counter(feature.clip_id for feature in clip_set.features)).fillna(0)
    return table.assign(
        clean_wer=table.wer.where(table.condition == "clean"),
        completion=completion,
        num_measures=num_measures.where(~unreadable),
        num_sources=_num_sources(keys, clip_set),
        num_splits=_num_splits(keys, table.split, clip_set.rows),
        unreadable=unreadable,
        duplicate=_duplicates(table, keys, clip_set),
        leaked=_leaked(table, completion, clip_set.prompts(), leak_ngram),
        heldout_used=_heldout_used(table),
        heldout_degraded=table.heldout_condition.astype(bool) & (table.split != "test"),
    )


def accepted_lines(table: pd.DataFrame, broken: dict[int, list[str]]) -> pd.DataFrame:
    """The lines that break no rule, with the number of splits that contain each synthesized text."""
    accepted = table.drop(index=list(broken))
    texts = accepted[accepted.suite == ALIGNMENT].groupby("text")
    return accepted.assign(text_splits=texts.split.transform("nunique"))


def _measured_clips(clip_set: ClipSet) -> pd.DataFrame:
    table = pd.DataFrame([clip.model_dump() for clip in clip_set.clips], columns=CLIP_COLUMNS)
    measures = pd.DataFrame([feature.model_dump() for feature in clip_set.features], columns=FEATURE_COLUMNS)
    table["text"] = table.transcript.map(normalize)
    return table.join(measures.drop_duplicates("clip_id").set_index("clip_id"), on="id")


def _num_sources(keys: list[Key], clip_set: ClipSet) -> list[int]:
    """The number of rows or questions for each clip."""
    sources = Counter((ALIGNMENT, row.id) for row in clip_set.rows)
    sources.update((suite, q.id) for suite, questions in clip_set.questions.items() for q in questions)
    return [sources[key] for key in keys]


def _num_splits(keys: list[Key], splits: pd.Series, rows: list[Row]) -> list[int]:
    """The number of splits that hold the row of each clip, by the rows and by their clips."""
    splits_by_key = defaultdict(set)
    for key, split in zip(keys, splits, strict=True):
        splits_by_key[key].add(split)
    for row in rows:
        splits_by_key[ALIGNMENT, row.id].add(row.split)
    return [len(splits_by_key[key]) for key in keys]


def _duplicates(table: pd.DataFrame, keys: list[Key], clip_set: ClipSet) -> pd.Series:
    """True where a row before it in the suite has the same normalised text.

    Questions of a suite are compared as they are written and with their attribute: the same question in two
    attributes has two answers.
    """
    questions = clip_set.question_of()
    attributes = [str(questions[key].attribute) if key in questions else "" for key in keys]
    text = table.text.where(table.suite == ALIGNMENT, table.transcript + attributes)
    first = table.row_id.groupby([table.suite, text]).transform("first")
    return (first != table.row_id) & (table.text != "")


def _leaked(table: pd.DataFrame, completion: pd.Series, prompts: list[str], leak_ngram: int) -> pd.Series:
    training = (table.suite == ALIGNMENT) & (table.split == "train")
    in_prompt, in_completion = (
        pd.Series(overlaps(list(texts.astype(object).fillna("")), prompts, leak_ngram), dtype=bool)
        for texts in (table.transcript, completion)
    )
    return training & (in_prompt | in_completion)


def _heldout_used(table: pd.DataFrame) -> list[bool]:
    """For each clip whether its voice is held out and speaks in training or in two splits."""
    heldout_voices = set(table.voice[table.heldout_voice.astype(bool)])
    splits = table[table.voice.isin(heldout_voices)].groupby("voice").split.agg(set)
    return [
        isinstance(splits_of_voice, set) and splits_of_voice not in ({"validation"}, {"test"})
        for splits_of_voice in table.voice.map(splits)
    ]
