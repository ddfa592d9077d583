"""From answers to the score table: means with intervals, paired tests, recovery.

A suite may ask in several ways, so that each metric is scored over the answers that have it.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from speech_rba.config import Evaluate
from speech_rba.evaluation.metrics import bootstrap, paired_bootstrap, recovery
from speech_rba.records import Answer


def score_table(answers: list[Answer], systems: list[str], settings: Evaluate) -> dict:
    """`scores`, `paired` and `recovery`, by suite, condition and metric; `n` counts answers. Clips of one row are one
    cluster.

    The condition "degraded" is every condition but clean; "all" is every clip; "text" are the prompts as read, by the text
    system and by every other that reads them too.
    """
    draw = {"num_samples": settings.num_bootstrap, "seed": settings.seed}
    table: dict[str, list] = {"scores": [], "paired": [], "recovery": []}
    for suite in dict.fromkeys(a.suite for a in answers):
        mine = [a for a in answers if a.suite == suite]
        for metric in dict.fromkeys(name for a in mine for name in a.metrics):
            scored = [a for a in mine if metric in a.metrics]
            text = {a.row_id: a for a in scored if a.system == "text"}
            _read(table, entry(suite, "text", metric), [a for a in scored if not a.clip_id], text, draw)
            for condition, chosen in by_condition([a for a in scored if a.clip_id]).items():
                _compare(table, entry(suite, condition, metric), chosen, text, systems, draw)
    return table


def entry(suite: str, condition: str, metric: str, **more) -> dict:
    return {"suite": suite, "condition": condition, "metric": metric, **more}


def interval(found: tuple[float, float, float], n: int) -> dict:
    return dict(zip(("value", "low", "high"), found, strict=True)) | {"n": n}


def by_condition(answers: list[Answer]) -> dict[str, list[Answer]]:
    """The answers of each condition, and of "all" and "degraded" where there are several."""
    groups = defaultdict(list)
    for answer in answers:
        groups["all"].append(answer)
        groups[answer.condition].append(answer)
        if answer.condition != "clean":
            groups["degraded"].append(answer)
    return dict(groups)


def corpora(answers: list[Answer], suite: str) -> Iterator[tuple[dict, list[Answer]]]:
    """({suite, condition, system, n}, the answers) that scores of a whole take: of each system that reads text, the
    text system first, and of the others in clean, hard and all clips."""
    mine = [answer for answer in answers if answer.suite == suite]
    read = sorted((a for a in mine if not a.clip_id), key=lambda a: a.system != "text")
    groups = ({"text": read} if read else {}) | by_condition([a for a in mine if a.clip_id])
    for condition in (name for name in ("text", "clean", "degraded", "all") if name in groups):
        for system in dict.fromkeys(answer.system for answer in groups[condition]):
            said = [a for a in groups[condition] if a.system == system]
            yield {"suite": suite, "condition": condition, "system": system, "n": len(said)}, said


def _read(table: dict, where: dict, answers: list[Answer], text: dict[str, Answer], draw: dict) -> None:
    """Scores of what each system answered to the prompts as text, and its paired test against the text system."""
    metric = where["metric"]
    for system in dict.fromkeys(["text", *(a.system for a in answers)]):
        values = {a.row_id: a.metrics[metric] for a in answers if a.system == system}
        if not values:
            continue
        found = bootstrap(list(values.values()), **draw)
        table["scores"].append(where | {"system": system} | interval(found, len(values)))
        both = [row for row in values if row in text]
        if system != "text" and both:
            ceiling = [text[row].metrics[metric] for row in both]
            _pair(
                table, where | {"a": system, "b": "text"}, [values[row] for row in both], ceiling, both, draw
            )


def _compare(
    table: dict, where: dict, chosen: list[Answer], text: dict, systems: list[str], draw: dict
) -> None:
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
        _pair(table, where | {"a": a, "b": b}, values[a], values[b], rows, draw)


def _pair(table: dict, pair: dict, a: list[float], b: list[float], rows: list[str], draw: dict) -> None:
    keys = ("difference", "low", "high", "p_value")
    tested = zip(keys, paired_bootstrap(a, b, clusters=rows, **draw), strict=True)
    table["paired"].append(pair | dict(tested) | {"n": len(rows)})
