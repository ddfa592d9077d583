"""The data contract: the rules for each clip and for all clips together, checked by Great Expectations."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core import ExpectationValidationResult

from speech_rba.config import Validate

MAX_MEDIAN_WER = 0.5  # above it the voices or the recogniser are broken, not single clips


@dataclass(frozen=True)
class Rule:
    name: str
    expected: str
    critical: bool
    expectation: gxe.Expectation


@dataclass(frozen=True)
class Checked:
    """What a table gives under some rules.

    `checks` has a {name, critical, passed, observed, expected} for each rule, `broken` the names of the rules
    that a line breaks, by its position, and `results` the results of Great Expectations, which its Data Docs
    show.
    """

    checks: list[dict[str, Any]]
    broken: dict[int, list[str]]
    results: list[ExpectationValidationResult]


def check(table: pd.DataFrame, rules: list[Rule]) -> Checked:
    """The checks of `table`, in the order of the rules.

    Raises:
        RuntimeError: a rule could not be evaluated.
    """
    checks: list[dict[str, Any]] = []
    broken: defaultdict[int, list[str]] = defaultdict(list)
    results = _results(table.reset_index(drop=True), rules)
    for rule, result in zip(rules, results, strict=True):
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
    return Checked(checks, dict(broken), results)


def _results(table: pd.DataFrame, rules: list[Rule]) -> list[ExpectationValidationResult]:
    """One result for each rule, in their order: a validated suite has an order of its columns."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]  # it has more keys
    asset = context.data_sources.add_pandas("contract").add_dataframe_asset("clips")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    suite = gx.ExpectationSuite("contract")
    for number, rule in enumerate(rules):
        rule.expectation.meta = {"number": number}
        suite.add_expectation(rule.expectation)
    results = batch.validate(suite, result_format="COMPLETE").results
    return sorted(results, key=_number)


def _number(result: ExpectationValidationResult) -> int:
    """The position of its rule."""
    assert result.expectation_config and result.expectation_config.meta
    return result.expectation_config.meta["number"]


def _observed(result: dict[str, Any]) -> str:
    if "unexpected_count" in result:
        count = result["unexpected_count"]
        return "1 clip breaks it" if count == 1 else f"{count} clips break it"
    if "partial_missing_list" in result or "missing_count" in result:
        return f"missing: {', '.join(sorted(result.get('partial_missing_list') or [])) or 'none'}"
    value = result["observed_value"]
    return "nothing measured" if value is None else f"{float(value):.4g}"


# ---- rules


def row_rules(limits: Validate) -> list[Rule]:
    """The rules for each clip; the name of a rule is the reason for which a clip is quarantined."""
    return [
        Rule(name, expected, False, expectation)
        for name, expected, expectation in _sound_rules(limits) + _text_rules(limits)
    ]


def table_rules() -> list[Rule]:
    """The rules for all clips together, whose violation is the fault of an earlier stage."""
    wer = gxe.ExpectColumnMedianToBeBetween(column="clean_wer", max_value=MAX_MEDIAN_WER, strict_max=True)
    voice, condition = "heldout_voice_untrained", "heldout_condition_untrained"
    rules = [
        ("unique_clip_ids", "each clip once", gxe.ExpectColumnValuesToBeUnique(column="id")),
        ("every_clip_measured", "one feature for each readable clip", _between("num_measures", 1, 1)),
        ("every_clip_has_its_row", "one row or question for each clip", _between("num_sources", 1, 1)),
        ("row_in_one_split", "no row in two splits", _between("num_splits", 1, 1)),
        (voice, "a held-out voice speaks in one split, never in training", _never("heldout_used")),
        (condition, "held-out conditions stand in the test split only", _never("heldout_degraded")),
        ("clean_speech_recognised", f"median WER of clean clips under {MAX_MEDIAN_WER}", wer),
    ]
    return [Rule(name, expected, True, expectation) for name, expected, expectation in rules]


def accepted_rules(conditions: list[str]) -> list[Rule]:
    """The rules for all clips that remain after quarantine: each of `conditions` has a clip among them."""
    every_condition = gxe.ExpectColumnDistinctValuesToContainSet(column="condition", value_set=conditions)
    expected = f"clips of {', '.join(conditions)}; else raise synthesize.test_share"
    rules = [
        ("every_condition", expected, every_condition),
        ("text_in_one_split", "no accepted text in two splits", _between("text_splits", 1, 1)),
        ("no_benchmark_text", "no accepted training text of a benchmark", _never("leaked")),
    ]
    return [
        _clips_left(),
        *(Rule(name, expected, True, expectation) for name, expected, expectation in rules),
    ]


def suite_row_rules(limits: Validate, recorded: bool) -> list[Rule]:
    """The rules for each clip of a suite; the suite stage has checked the sound of recordings."""
    rules = row_rules(limits)
    return [rule for rule in rules if rule.name == "unreadable"] if recorded else rules


def suite_table_rules() -> list[Rule]:
    """The rules for all clips of a suite together."""
    return [rule for rule in table_rules() if rule.name != "clean_speech_recognised"]


def accepted_suite_rules() -> list[Rule]:
    """The rules for all clips of a suite that remain after quarantine."""
    return [_clips_left()]


def _clips_left() -> Rule:
    expectation = gxe.ExpectTableRowCountToBeBetween(min_value=1)
    return Rule("clips_left", "at least one clip accepted", True, expectation)


def _sound_rules(limits: Validate) -> list[tuple[str, str, gxe.Expectation]]:
    low_s, high_s, low_db = limits.min_duration_s, limits.max_duration_s, limits.min_rms_db
    wer, clipped, silence = limits.max_wer_clean, limits.max_clipped_share, limits.max_silence_share
    clipping = _between("clipped_share", None, clipped)
    return [
        ("unreadable", "the file is the recorded one and holds sound", _never("unreadable")),
        ("too_short", f"at least {low_s} s", _between("duration_s", low_s, None)),
        ("too_long", f"at most {high_s} s", _between("duration_s", None, high_s)),
        ("silent", f"at least {low_db} dBFS", _between("rms_db", low_db, None)),
        ("silent", f"at most {silence:.0%} of the frames silent", _between("silence_share", None, silence)),
        ("clipped", f"at most {clipped:.1%} of the samples clipped", clipping),
        ("wrong_words", f"WER at most {wer} in clean speech", _between("clean_wer", None, wer)),
    ]


def _text_rules(limits: Validate) -> list[tuple[str, str, gxe.Expectation]]:
    leakage = f"no {limits.leak_ngram} words in a row of a benchmark in training text"
    return [
        ("empty_text", "the transcript has a word", _not_blank("text")),
        ("no_completion", "the teacher answered", _not_blank("completion")),
        ("duplicate", "no earlier row says the same", _never("duplicate")),
        ("leaked", leakage, _never("leaked")),
    ]


def _never(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[False])


def _between(column: str, low: float | None, high: float | None) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def _not_blank(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S")
