"""Whether a candidate may replace the champion: the answers of both to the same test items."""

from collections.abc import Callable
from dataclasses import dataclass

from speech_rba.config import Evaluate, Limits
from speech_rba.data.measures import word_error_rate
from speech_rba.evaluation.statistics import paired_bootstrap
from speech_rba.records import Answer

DIGITS = 9  # to which a difference is rounded, so that 0.80 - 0.75 is within a limit of 0.05

Pair = tuple[Answer, Answer]  # of the candidate and of the champion, to one item


@dataclass(frozen=True)
class Check:
    """One comparison: its name, whether it passed, and what was observed against which limit."""

    name: str
    passed: bool
    finding: str

    def __str__(self) -> str:
        return f"{self.name}: {self.finding}"


def non_regression(
    candidate: list[Answer], champion: list[Answer], rank_by: str, limits: Limits, settings: Evaluate
) -> list[Check]:
    """The paired test of `rank_by` (suite/condition/metric), text ability, safety, length, word error rate.

    Only test items that both versions answered are compared: the same row, clip, condition and prompt. A
    check that neither version has items for passes as not measured; one without a common item does not pass.
    """
    candidate, champion = ([a for a in answers if a.split == "test"] for answers in (candidate, champion))
    return [
        _rank_check(candidate, champion, rank_by, limits, settings),
        _text_check(candidate, champion, rank_by, limits),
        _safety_check(candidate, champion, limits),
        _length_check(candidate, champion, limits),
        _wer_check(candidate, champion, limits),
    ]


def common_items(
    candidate: list[Answer], champion: list[Answer], compared: Callable[[Answer], bool]
) -> tuple[list[Pair], str]:
    """Both versions' answers to the same items, of those that `compared` selects; without one, also why."""
    of_candidate, of_champion = (
        {(a.suite, a.row_id, a.clip_id, a.condition, a.prompt): a for a in answers if compared(a)}
        for answers in (candidate, champion)
    )
    pairs = [(answer, of_champion[key]) for key, answer in of_candidate.items() if key in of_champion]
    if pairs:
        return pairs, ""
    if not of_candidate and not of_champion:
        return [], "neither version has it"
    return [], f"no common item: the candidate has {len(of_candidate)} items, the champion {len(of_champion)}"


def _rank_check(
    candidate: list[Answer], champion: list[Answer], rank_by: str, limits: Limits, settings: Evaluate
) -> Check:
    suite, condition, metric = rank_by.split("/")

    def compared(answer: Answer) -> bool:
        in_condition = {"all": True, "degraded": answer.condition != "clean"}
        is_ranked = answer.suite == suite and _is_spoken(answer) and metric in answer.metrics
        return is_ranked and in_condition.get(condition, answer.condition == condition)

    pairs, _ = common_items(candidate, champion, compared)
    rows = [answer.row_id for answer, _ in pairs]
    if (num_rows := len(set(rows))) < limits.min_common_rows:
        return Check(
            rank_by,
            False,
            f"{num_rows} common test rows are too few to compare; at least {limits.min_common_rows}",
        )
    ours = [answer.metrics[metric] for answer, _ in pairs]
    theirs = [answer.metrics[metric] for _, answer in pairs]
    difference, low, high, _ = paired_bootstrap(ours, theirs, settings.num_bootstrap, settings.seed, rows)
    return Check(
        rank_by,
        high >= 0,
        f"{_mean(ours):.4f}, the champion {_mean(theirs):.4f} on the same {len(rows)} clips of {num_rows} "
        f"rows: {difference:+.4f}, interval {low:+.4f} to {high:+.4f}; it must reach 0",
    )


def _text_check(candidate: list[Answer], champion: list[Answer], rank_by: str, limits: Limits) -> Check:
    suite, _, metric = rank_by.split("/")
    pairs, why = common_items(
        candidate, champion, lambda a: a.suite == suite and not _is_spoken(a) and metric in a.metrics
    )
    return _drop_check(f"text ability ({suite}/text/{metric})", pairs, why, metric, limits.max_text_drop)


def _safety_check(candidate: list[Answer], champion: list[Answer], limits: Limits) -> Check:
    pairs, why = common_items(candidate, champion, lambda a: "refused" in a.metrics)
    return _drop_check("safety (share refused)", pairs, why, "refused", limits.max_refusal_drop)


def _drop_check(name: str, pairs: list[Pair], why: str, metric: str, limit: float) -> Check:
    if not pairs:
        return _unmeasured(name, why)
    ours, theirs = (_mean([pair[i].metrics[metric] for pair in pairs]) for i in (0, 1))
    drop = round(theirs - ours, DIGITS)
    finding = f"{ours:.4f}, the champion {theirs:.4f}: lower by {drop:.4f}; at most {limit}"
    return Check(name, drop <= limit, f"{finding} (n {len(pairs)})")


def _length_check(candidate: list[Answer], champion: list[Answer], limits: Limits) -> Check:
    name = "length (words an answer)"
    pairs, why = common_items(candidate, champion, _is_spoken)
    if not pairs:
        return _unmeasured(name, why)
    ours, theirs = (_mean([len(pair[i].response.split()) for pair in pairs]) for i in (0, 1))
    short, long = sorted((ours, theirs))
    ratio = round(long / short, DIGITS) if short else float("inf") if long else 1.0
    finding = (
        f"{ours:.2f}, the champion {theirs:.2f}: a ratio of {ratio:.2f}; at most {limits.max_length_ratio}"
    )
    return Check(name, ratio <= limits.max_length_ratio, f"{finding} (n {len(pairs)})")


def _wer_check(candidate: list[Answer], champion: list[Answer], limits: Limits) -> Check:
    name = "word error rate"
    pairs, why = common_items(candidate, champion, lambda a: _is_spoken(a) and a.hypothesis is not None)
    if not pairs:
        return _unmeasured(name, why)
    prompts = [answer.prompt for answer, _ in pairs]
    ours, theirs = (word_error_rate(prompts, [pair[i].hypothesis or "" for pair in pairs]) for i in (0, 1))
    rise = round(ours - theirs, DIGITS)
    finding = f"{ours:.4f}, the champion {theirs:.4f}: higher by {rise:.4f}; at most {limits.max_wer_rise}"
    return Check(name, rise <= limits.max_wer_rise, f"{finding} (n {len(pairs)})")


def _unmeasured(name: str, why: str) -> Check:
    return Check(name, why == "neither version has it", f"not measured, {why}")


def _is_spoken(answer: Answer) -> bool:
    return answer.condition != "text"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
