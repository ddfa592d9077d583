"""From answers to the score table: means with intervals, paired tests, recovery."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from speech_rba.evaluation.metrics import bootstrap, paired_bootstrap, recovery
from speech_rba.params import Evaluate
from speech_rba.records import Answer


def score_table(answers: list[Answer], systems: list[str], settings: Evaluate) -> dict:
    """`scores`, `paired` and `recovery`, by suite, condition and metric. Clips of one row are one cluster.

    The condition "hard" is every condition but clean; "all" is every clip.
    """
    draw = {"num_samples": settings.num_bootstrap, "seed": settings.seed}
    table: dict[str, list] = {"scores": [], "paired": [], "recovery": []}
    for suite in dict.fromkeys(a.suite for a in answers):
        mine = [a for a in answers if a.suite == suite]
        text = {a.row_id: a for a in mine if a.system == "text"}
        spoken = [a for a in mine if a.system != "text"]
        for metric in text[next(iter(text))].metrics:
            values = [a.metrics[metric] for a in text.values()]
            table["scores"].append(
                entry(suite, "text", metric, system="text") | interval(bootstrap(values, **draw), len(values))
            )
            for condition, chosen in by_condition(spoken).items():
                _compare(table, entry(suite, condition, metric), chosen, text, systems, draw)
    return table


def entry(suite: str, condition: str, metric: str, **more) -> dict:
    return {"suite": suite, "condition": condition, "metric": metric, **more}


def interval(found: tuple[float, float, float], n: int) -> dict:
    return dict(zip(("value", "low", "high"), found, strict=True)) | {"n": n}


def by_condition(answers: list[Answer]) -> dict[str, list[Answer]]:
    """The answers of each condition, and of "all" and "hard" where there are several."""
    groups = defaultdict(list)
    for answer in answers:
        groups["all"].append(answer)
        groups[answer.condition].append(answer)
        if answer.condition != "clean":
            groups["hard"].append(answer)
    return dict(groups)


def corpora(answers: list[Answer], suite: str) -> Iterator[tuple[dict, list[Answer]]]:
    """({suite, condition, system, n}, the answers) that scores of a whole take: of the text system, and of the other
    systems in clean, hard and all clips."""
    mine = [answer for answer in answers if answer.suite == suite]
    groups = by_condition([answer for answer in mine if answer.system != "text"])
    groups = {"text": [a for a in mine if a.system == "text"]} | groups
    for condition in (name for name in ("text", "clean", "hard", "all") if name in groups):
        for system in dict.fromkeys(answer.system for answer in groups[condition]):
            said = [a for a in groups[condition] if a.system == system]
            yield {"suite": suite, "condition": condition, "system": system, "n": len(said)}, said


def _compare(table: dict, where: dict, chosen: list[Answer], text: dict, systems: list[str], draw: dict) -> None:
    metric = where["metric"]
    columns = {s: {a.clip_id: a for a in chosen if a.system == s} for s in systems if s != "text"}
    clips = sorted(columns["base"])
    rows = [columns["base"][c].row_id for c in clips]
    values = {s: [column[c].metrics[metric] for c in clips] for s, column in columns.items()}
    ceiling = [text[row].metrics[metric] for row in rows]
    for system, v in values.items():
        found = bootstrap(v, clusters=rows, **draw)
        table["scores"].append(where | {"system": system} | interval(found, len(v)))
        if system != "cascade" and (share := recovery(v, values["cascade"], ceiling, clusters=rows, **draw)):
            table["recovery"].append(where | {"system": system} | interval(share, len(v)))
    for b, a in combinations(values, 2):
        difference, low, high, p_value = paired_bootstrap(values[a], values[b], clusters=rows, **draw)
        table["paired"].append(
            where
            | {"a": a, "b": b, "difference": difference, "low": low, "high": high, "p_value": p_value, "n": len(rows)}
        )
