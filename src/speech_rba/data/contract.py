"""The data contract: what each clip and the table of all clips must keep to, checked by Great Expectations."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, get_args

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd

from speech_rba.config import Validate
from speech_rba.data.leakage import overlaps
from speech_rba.data.measures import normalize
from speech_rba.records import Clip, Condition, Feature, Question, Row

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
CONDITIONS = list(get_args(Condition))
MAX_MEDIAN_WER = 0.5  # half the clean speech misheard: voices or recogniser are broken, not single clips


@dataclass(frozen=True)
class Rule:
    name: str
    expected: str
    critical: bool
    expectation: gxe.Expectation


def clip_table(
    clips: list[Clip],
    features: list[Feature],
    rows: list[Row],
    questions: dict[str, list[Question]],
    unreadable: list[bool],
    leak_ngram: int,
) -> pd.DataFrame:
    """One line a clip, in order: the clip, its measures (NaN where none) and what row and benchmarks say of it."""
    table = pd.DataFrame([clip.model_dump() for clip in clips], columns=CLIP_COLUMNS)
    measures = pd.DataFrame([feature.model_dump() for feature in features], columns=FEATURE_COLUMNS)
    table["text"] = table.transcript.map(normalize)
    table = table.join(measures.drop_duplicates("clip_id").set_index("clip_id"), on="id")
    sources = Counter(("alignment", row.id) for row in rows)
    sources.update(
        (suite, question.id) for suite, suite_questions in questions.items() for question in suite_questions
    )
    keys = list(zip(table.suite, table.row_id, strict=True))
    attributes = {
        (suite, q.id): str(q.attribute)
        for suite, suite_questions in questions.items()
        for q in suite_questions
    }
    synthesized = table.suite == "alignment"
    completion = table.row_id.map({row.id: row.completion for row in rows}).where(synthesized)
    asked = [question.prompt for suite_questions in questions.values() for question in suite_questions]
    trained = synthesized & (table.split == "train")
    held_out = set(table.voice[table.heldout_voice.astype(bool)])
    own_splits = table.voice.map(table[table.voice.isin(held_out)].groupby("voice").split.agg(set))
    return table.assign(
        clean_wer=table.wer.where(table.condition == "clean"),
        completion=completion,
        num_measures=table.id.map(Counter(measures.clip_id))
        .fillna(0)
        .where(~pd.Series(unreadable, dtype=bool)),
        num_sources=[sources[key] for key in keys],
        num_splits=_num_splits(keys, table.split, rows),
        unreadable=pd.Series(unreadable, dtype=bool),
        duplicate=_duplicates(table, [attributes.get(key, "") for key in keys]),
        leaked=trained
        & (_leaking(table.transcript, asked, leak_ngram) | _leaking(completion, asked, leak_ngram)),
        heldout_used=[
            isinstance(splits, set) and splits not in ({"validation"}, {"test"}) for splits in own_splits
        ],
        heldout_degraded=table.heldout_condition.astype(bool) & (table.split != "test"),
    )


def _num_splits(keys: list[tuple[str, str]], splits: pd.Series, rows: list[Row]) -> list[int]:
    """In how many splits the row of each clip stands, by the rows and by their clips."""
    seen = defaultdict(set)
    for key, split in [
        *zip(keys, splits, strict=True),
        *((("alignment", row.id), row.split) for row in rows),
    ]:
        seen[key].add(split)
    return [len(seen[key]) for key in keys]


def _leaking(texts: pd.Series, asked: list[str], n: int) -> pd.Series:
    return pd.Series(overlaps(list(texts.astype(object).fillna("")), asked, n), dtype=bool)


def _duplicates(table: pd.DataFrame, attributes: list[str]) -> pd.Series:
    """True where another row of the suite said the text first; of questions the identical text in the same attribute."""
    text = table.text.where(table.suite == "alignment", table.transcript + attributes)
    first = table.row_id.groupby([table.suite, text]).transform("first")
    return (first != table.row_id) & (table.text != "")


def remaining(table: pd.DataFrame, broken: dict[int, list[str]]) -> pd.DataFrame:
    """The lines that break no rule, with the number of splits in which each synthesized text stands."""
    left = table.drop(index=list(broken))
    texts = left[left.suite == "alignment"].groupby("text")
    return left.assign(text_splits=texts.split.transform("nunique"))


def _never(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[False])


def _between(column: str, low: float | None, high: float | None) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def row_rules(limits: Validate) -> list[Rule]:
    """What each clip must keep to; the name of a rule is the reason for which a clip is quarantined."""
    low_s, high_s = limits.min_duration_s, limits.max_duration_s
    wer, clipped, silence = limits.max_wer_clean, limits.max_clipped_share, limits.max_silence_share
    rules = [
        ("unreadable", "the file is the recorded one and holds sound", _never("unreadable")),
        ("too_short", f"at least {low_s} s", _between("duration_s", low_s, None)),
        ("too_long", f"at most {high_s} s", _between("duration_s", None, high_s)),
        ("silent", f"at least {limits.min_rms_db} dBFS", _between("rms_db", limits.min_rms_db, None)),
        ("silent", f"at most {silence:.0%} of the frames silent", _between("silence_share", None, silence)),
        (
            "clipped",
            f"at most {clipped:.1%} of the samples clipped",
            _between("clipped_share", None, clipped),
        ),
        ("wrong_words", f"WER at most {wer} in clean speech", _between("clean_wer", None, wer)),
        (
            "empty_text",
            "the transcript has a word",
            gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S"),
        ),
        (
            "no_completion",
            "the teacher answered",
            gxe.ExpectColumnValuesToMatchRegex(column="completion", regex=r"\S"),
        ),
        ("duplicate", "no earlier row says the same", _never("duplicate")),
        (
            "leaked",
            f"no {limits.leak_ngram} words in a row of a benchmark in training text",
            _never("leaked"),
        ),
    ]
    return [Rule(name, expected, False, expectation) for name, expected, expectation in rules]


def table_rules() -> list[Rule]:
    """What all clips together must keep to: a break is a fault of the stages before, which no quarantine mends."""
    wer = gxe.ExpectColumnMedianToBeBetween(column="clean_wer", max_value=MAX_MEDIAN_WER, strict_max=True)
    rules = [
        ("unique_clip_ids", "each clip once", gxe.ExpectColumnValuesToBeUnique(column="id")),
        ("every_clip_measured", "one feature for each readable clip", _between("num_measures", 1, 1)),
        ("every_clip_has_its_row", "one row or question for each clip", _between("num_sources", 1, 1)),
        ("row_in_one_split", "no row in two splits", _between("num_splits", 1, 1)),
        (
            "heldout_voice_untrained",
            "a held-out voice speaks in one split, never in training",
            _never("heldout_used"),
        ),
        (
            "heldout_condition_untrained",
            "held-out conditions stand in the test split only",
            _never("heldout_degraded"),
        ),
        ("clean_speech_recognised", f"median WER of clean clips under {MAX_MEDIAN_WER}", wer),
    ]
    return [Rule(name, expected, True, expectation) for name, expected, expectation in rules]


def suite_row_rules(limits: Validate, recorded: bool) -> list[Rule]:
    """What each clip of a suite must keep to. What others recorded is as they made it: reading it has checked it."""
    rules = row_rules(limits)
    return [rule for rule in rules if rule.name == "unreadable"] if recorded else rules


def suite_table_rules() -> list[Rule]:
    """What the clips of a suite must keep to together."""
    return [rule for rule in table_rules() if rule.name != "clean_speech_recognised"]


def accepted_suite_rules() -> list[Rule]:
    """What must hold of the clips of a suite that remain after quarantine."""
    return [rule for rule in accepted_rules() if rule.name == "clips_left"]


def accepted_rules() -> list[Rule]:
    """What must hold of the clips that remain after quarantine."""
    conditions = gxe.ExpectColumnDistinctValuesToContainSet(column="condition", value_set=CONDITIONS)
    rules = [
        ("clips_left", "at least one clip accepted", gxe.ExpectTableRowCountToBeBetween(min_value=1)),
        (
            "every_condition",
            f"clips of {', '.join(CONDITIONS)}; else raise synthesize.test_share",
            conditions,
        ),
        ("text_in_one_split", "no accepted text in two splits", _between("text_splits", 1, 1)),
        ("no_benchmark_text", "no accepted training text of a benchmark", _never("leaked")),
    ]
    return [Rule(name, expected, True, expectation) for name, expected, expectation in rules]


def check(table: pd.DataFrame, rules: list[Rule]) -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
    """A check (name, critical, passed, observed, expected) a rule; and by position the rules that a line breaks.

    Raises:
        RuntimeError: a rule could not be evaluated.
    """
    table = table.reset_index(drop=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("contract").add_dataframe_asset("clips")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    checks, broken = [], defaultdict(list)
    for rule in rules:  # one by one: a suite answers in an order of its own
        result = batch.validate(rule.expectation, result_format="COMPLETE")
        if not result.success and not result.result:
            raise RuntimeError(f"Great Expectations could not evaluate {rule.name}: {result.exception_info}")
        for line in result.result.get("unexpected_index_list") or []:
            if rule.name not in broken[line]:
                broken[line].append(rule.name)
        checks.append(
            {
                "name": rule.name,
                "critical": rule.critical,
                "passed": bool(result.success),
                "observed": _observed(result.result),
                "expected": rule.expected,
            }
        )
    return checks, dict(broken)


def _observed(result: dict[str, Any]) -> str:
    if "unexpected_count" in result:
        count = result["unexpected_count"]
        return "1 clip breaks it" if count == 1 else f"{count} clips break it"
    if "partial_missing_list" in result or "missing_count" in result:
        return f"missing: {', '.join(sorted(result.get('partial_missing_list') or [])) or 'none'}"
    value = result["observed_value"]
    return "nothing measured" if value is None else f"{float(value):.4g}"
