"""The score table: means with intervals, paired tests and recovery of every system.

Each metric is scored over the answers that have it, because a suite may hold several kinds of questions.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

from speech_rba.config import Evaluate
from speech_rba.data.measures import word_error_rate
from speech_rba.evaluation.items import Item
from speech_rba.evaluation.statistics import bootstrap, paired_bootstrap, recovery
from speech_rba.records import Answer


@dataclass(frozen=True)
class ScoreTable:
    """`scores`, `paired` and `recovery`, each a list of rows with suite, condition and metric."""

    num_samples: int
    seed: int
    scores: list[dict] = field(default_factory=list)
    paired: list[dict] = field(default_factory=list)
    recovery: list[dict] = field(default_factory=list)

    def add_mean(self, labels: dict, values: list[float], rows: list[str] | None) -> None:
        mean = bootstrap(values, self.num_samples, self.seed, rows)
        self.scores.append(labels | interval(mean, len(values)))

    def add_pair(self, labels: dict, a: list[float], b: list[float], rows: list[str]) -> None:
        self.paired.append(labels | paired_test(a, b, rows, self.num_samples, self.seed))

    def add_recovery(
        self, labels: dict, values: list[float], cascade: list[float], text: list[float], rows: list[str]
    ) -> None:
        if share := recovery(values, cascade, text, self.num_samples, self.seed, rows):
            self.recovery.append(labels | interval(share, len(values)))


def score_table(answers: list[Answer], systems: list[str], settings: Evaluate) -> ScoreTable:
    """The scores of `answers` by suite, condition and metric. Clips of one row are one cluster.

    The condition "degraded" is every condition but clean, "all" every clip. "text" are the prompts read as
    text, by the text system and by every other system that reads them too.
    """
    table = ScoreTable(settings.num_bootstrap, settings.seed)
    for suite in dict.fromkeys(a.suite for a in answers):
        of_suite = [a for a in answers if a.suite == suite]
        for metric in dict.fromkeys(name for a in of_suite for name in a.metrics):
            scored = [a for a in of_suite if metric in a.metrics]
            add_text_scores(table, suite, metric, [a for a in scored if not a.clip_id])
            text = {a.row_id: a.metrics[metric] for a in scored if a.system == "text"}
            for condition, spoken in by_condition([a for a in scored if a.clip_id]).items():
                labels = {"suite": suite, "condition": condition, "metric": metric}
                add_spoken_scores(table, labels, spoken, text, systems)
    return table


def add_text_scores(table: ScoreTable, suite: str, metric: str, answers: list[Answer]) -> None:
    """Adds the scores of each system that reads the prompts, and its paired test against the text system."""
    labels = {"suite": suite, "condition": "text", "metric": metric}
    by_system: dict[str, dict[str, float]] = {"text": {}}
    for answer in answers:
        by_system.setdefault(answer.system, {})[answer.row_id] = answer.metrics[metric]
    text = by_system["text"]
    for system, values in by_system.items():
        if not values:
            continue
        table.add_mean(labels | {"system": system}, list(values.values()), None)
        common = [row for row in values if row in text]
        if system != "text" and common:
            pair = labels | {"a": system, "b": "text"}
            table.add_pair(pair, [values[row] for row in common], [text[row] for row in common], common)


def add_spoken_scores(
    table: ScoreTable, labels: dict, spoken: list[Answer], text: dict[str, float], systems: list[str]
) -> None:
    """Adds every system's scores on the same clips, its recovery, and the paired tests of all pairs."""
    by_system = {s: {a.clip_id: a for a in spoken if a.system == s} for s in systems if s != "text"}
    clips = sorted(by_system["base"])
    rows = [by_system["base"][clip].row_id for clip in clips]
    values = {
        system: [answers[clip].metrics[labels["metric"]] for clip in clips]
        for system, answers in by_system.items()
    }
    text_values = [text[row] for row in rows]
    for system, scores in values.items():
        table.add_mean(labels | {"system": system}, scores, rows)
        if system != "cascade":
            table.add_recovery(labels | {"system": system}, scores, values["cascade"], text_values, rows)
    for b, a in combinations(values, 2):
        table.add_pair(labels | {"a": a, "b": b}, values[a], values[b], rows)


def interval(estimate: tuple[float, float, float], n: int) -> dict:
    value, low, high = estimate
    return {"value": value, "low": low, "high": high, "n": n}


def paired_test(a: list[float], b: list[float], rows: list[str], num_samples: int, seed: int) -> dict:
    """{difference, low, high, p_value, n} of a minus b."""
    difference, low, high, p_value = paired_bootstrap(a, b, num_samples, seed, clusters=rows)
    return {"difference": difference, "low": low, "high": high, "p_value": p_value, "n": len(rows)}


def by_condition(answers: list[Answer]) -> dict[str, list[Answer]]:
    """The answers of "all", of each condition, and of "degraded" where a condition is not clean."""
    groups = defaultdict(list)
    for answer in answers:
        groups["all"].append(answer)
        groups[answer.condition].append(answer)
        if answer.condition != "clean":
            groups["degraded"].append(answer)
    return dict(groups)


def corpora(answers: list[Answer], suite: str) -> Iterator[tuple[dict, list[Answer]]]:
    """({suite, condition, system, n}, answers) of every corpus that is scored as a whole.

    First what each system answers to the text, with the text system in front, then each system's answers to
    clean, to degraded and to all clips.
    """
    of_suite = [answer for answer in answers if answer.suite == suite]
    text = sorted((a for a in of_suite if not a.clip_id), key=lambda a: a.system != "text")
    groups = ({"text": text} if text else {}) | by_condition([a for a in of_suite if a.clip_id])
    for condition in (name for name in ("text", "clean", "degraded", "all") if name in groups):
        for system in dict.fromkeys(answer.system for answer in groups[condition]):
            corpus = [a for a in groups[condition] if a.system == system]
            yield {"suite": suite, "condition": condition, "system": system, "n": len(corpus)}, corpus


def wer_table(items: list[Item]) -> list[dict]:
    """Word error rates of the 1-best transcripts of Whisper and of the student, by suite and condition."""
    groups = defaultdict(list)
    for item in items:
        groups[item.suite, item.condition].append(item)
    rows = []
    for (suite, condition), group in groups.items():
        references = [item.prompt for item in group]
        hypotheses: dict[str, list] = {"Whisper": [item.judge_hypothesis for item in group]}
        if group[0].student_hypothesis is not None:
            hypotheses["student"] = [item.student_hypothesis for item in group]
        for transcriber, texts in hypotheses.items():
            labels = {"suite": suite, "condition": condition, "asr_adapter": transcriber, "n": len(group)}
            rows.append(labels | {"value": word_error_rate(references, texts)})
    return rows
