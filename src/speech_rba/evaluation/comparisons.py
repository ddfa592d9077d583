"""What the report page shows beside the score table: the best method, scores by voice and by SNR."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from speech_rba.config import Evaluate
from speech_rba.errors import UserError
from speech_rba.evaluation.score_table import interval, paired_test
from speech_rba.evaluation.scorers import METRICS
from speech_rba.evaluation.statistics import bootstrap
from speech_rba.records import ALIGNMENT, Answer

NUM_SNR_BINS = 4
REFERENCES = ("text", "cascade", "base")  # the systems that every method is compared with


def primary_metric(scores: list[dict], suite: str) -> str:
    """The metric that decides about a suite: accuracy, else `teacher_logp`, else its first.

    No reward holds `teacher_logp`, the log-likelihood of the teacher's answer.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in scores if row["suite"] == suite))
    return next((metric for metric in ("accuracy", "teacher_logp") if metric in metrics), metrics[0])


def described_metrics(scores: list[dict], corpora: list[dict]) -> dict[str, dict]:
    """How to write each metric of these tables, by its name."""
    names = [row["metric"] for row in scores] + [key for table in corpora for key in table["rows"][0]]
    return {name: asdict(METRICS[name]) for name in dict.fromkeys(names) if name in METRICS}


def comparisons(
    answers: list[Answer], scores: list[dict], validation: list[dict], systems: list[str], settings: Evaluate
) -> dict[str, list[dict]]:
    """`best`, `by_voice` and `by_snr`, each a list of rows with the suite and its primary metric.

    `answers` and `scores` are of the test split; `validation` holds the scores by which a method is chosen.
    """
    tables: dict[str, list[dict]] = {"best": [], "by_voice": [], "by_snr": []}
    for suite in dict.fromkeys(row["suite"] for row in scores):
        metric = primary_metric(scores, suite)
        spoken = [a for a in answers if a.suite == suite and a.clip_id and metric in a.metrics]
        tables["best"].append(best_method(spoken, metric, scores, validation, systems, settings))
        labels = {"suite": suite, "metric": metric}
        voices = {a.clip_id: a.voice + " (held out)" * a.heldout_voice for a in spoken}
        tables["by_voice"] += [labels | row for row in by_group(spoken, voices, metric, systems, settings)]
        bins = snr_bins({a.clip_id: a.snr_db for a in spoken if a.snr_db is not None})
        tables["by_snr"] += [labels | row for row in by_group(spoken, bins, metric, systems, settings)]
    return tables


def best_method(
    spoken: list[Answer], metric: str, scores: list[dict], validation: list[dict], systems: list[str],
    settings: Evaluate,
) -> dict:  # fmt: skip
    """The best method of a suite against every other system that answers speech, over the degraded clips.

    Keys: suite, metric, condition ("degraded", or "all" where every clip is clean), system, num_clips,
    num_rows, and pairs: {system, difference, low, high, p_value, n}, first with the cascade, then with base.

    Raises:
        UserError: the systems were not scored on the same clips.
    """
    suite = spoken[0].suite
    degraded = [answer for answer in spoken if answer.condition != "clean"]
    values = scores_by_clip(degraded or spoken, metric)
    check_same_clips(values, suite, systems)
    condition = "degraded" if degraded else "all"
    best = chosen_method(suite, condition, scores, validation, systems)
    clips = sorted(values[best])
    rows = [values[best][clip][0] for clip in clips]
    pairs = []
    for system in [*REFERENCES[1:], *(method for method in methods_of(systems) if method != best)]:
        a, b = ([values[name][clip][1] for clip in clips] for name in (best, system))
        test = paired_test(a, b, rows, settings.num_bootstrap, settings.seed)
        pairs.append({"system": system} | test)
    labels = {"suite": suite, "metric": metric, "condition": condition, "system": best}
    return labels | {"num_clips": len(clips), "num_rows": len(set(rows)), "pairs": pairs}


def methods_of(systems: list[str]) -> list[str]:
    return [system for system in systems if system not in REFERENCES]


def scores_by_clip(answers: list[Answer], metric: str) -> dict[str, dict[str, tuple[str, float]]]:
    """(row id, score) by system and clip id."""
    values: dict[str, dict[str, tuple[str, float]]] = {}
    for answer in answers:
        values.setdefault(answer.system, {})[answer.clip_id] = (answer.row_id, answer.metrics[metric])
    return values


def check_same_clips(values: dict[str, dict], suite: str, systems: list[str]) -> None:
    """Raises UserError unless every system but text has a score of the same clips."""
    same = len({frozenset(clips) for clips in values.values()}) == 1
    if not same or set(values) != set(systems) - {"text"}:
        counts = {system: len(clips) for system, clips in values.items()}
        raise UserError(
            f"the systems were not scored on the same clips of {suite}: {counts}; run evaluate again"
        )


def chosen_method(
    suite: str, condition: str, scores: list[dict], validation: list[dict], systems: list[str]
) -> str:
    """The method with the best validation score of a suite.

    Recordings have no validation clips: there the score of the synthesized rows decides.

    Raises:
        UserError: validation scored no method.
    """
    methods = methods_of(systems)
    for name, where in ((suite, condition), (suite, "all"), (ALIGNMENT, condition), (ALIGNMENT, "all")):
        labels = {"suite": name, "condition": where, "metric": primary_metric(scores, name)}
        rows = [row for row in validation if labels.items() <= row.items()]
        values = {row["system"]: row["value"] for row in rows if row["system"] in methods}
        if values:
            return max(methods, key=lambda method: values[method])
    raise UserError(f"validation scored no method on {suite} nor on {ALIGNMENT}: run evaluate again")


def by_group(
    answers: list[Answer], groups: Mapping[str, object], metric: str, systems: list[str], settings: Evaluate
) -> list[dict]:
    """{system, group, value, low, high, n} by system and group.

    `groups` names the group of each clip that has one.
    """
    clips: dict[str, dict] = {system: defaultdict(list) for system in systems}
    for answer in answers:
        if answer.clip_id in groups:
            clips[answer.system][groups[answer.clip_id]].append((answer.row_id, answer.metrics[metric]))
    table = []
    for system, by_name in clips.items():
        for group, pairs in sorted(by_name.items()):
            rows, values = zip(*pairs, strict=True)
            mean = bootstrap(values, settings.num_bootstrap, settings.seed, rows)
            table.append({"system": system, "group": group} | interval(mean, len(values)))
    return table


def snr_bins(snr_db: dict[str, float]) -> dict[str, float]:
    """The middle in dB of the bin of each clip; the bins are equally wide and span all values."""
    if not snr_db:
        return {}
    edges = np.linspace(min(snr_db.values()), max(snr_db.values()), NUM_SNR_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    return {clip_id: middles[np.digitize(snr, edges[1:-1])].item() for clip_id, snr in snr_db.items()}
