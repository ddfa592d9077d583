"""The tables of the page, as dicts that the template shows."""

from collections import Counter

from speech_rba.report.results import Results, plain
from speech_rba.report.wording import MIN_ROWS, sign


def score_tables(results: Results) -> list[dict]:
    """A table for each suite and metric, those of primary metrics first."""
    pairs = dict.fromkeys((row["suite"], row["metric"]) for row in results.scores["scores"])
    tables = [score_table(results, suite, metric) for suite, metric in pairs]
    return sorted(tables, key=lambda table: not table["primary"])  # stable


def score_table(results: Results, suite: str, metric: str) -> dict:
    """A row for each system, a column for each condition.

    Keys: suite, metric, primary, conditions, num, text, systems, wer. `systems` holds (index, name, cells by
    condition); a cell is {value, low, high, n, best, unparsed}, the last for accuracy the share of choices
    without a letter.
    """
    cells = score_cells(results, suite, metric)
    spoken = {condition for system in cells for condition in cells[system] if system != "text"}
    conditions = [condition for condition in ("all", *results.conditions) if condition in spoken]
    mark_best(cells, conditions, results.methods)
    return {
        "suite": suite,
        "metric": metric,
        "primary": metric == results.primary_metric(suite),
        "conditions": conditions,
        "text": cells["text"]["text"],
        "num": {condition: cells["cascade"][condition]["n"] for condition in conditions},
        "systems": [(i, name, cells[name]) for i, name in enumerate(results.systems) if name != "text"],
        "wer": word_error_rates(results.scores, suite),
    }


def score_cells(results: Results, suite: str, metric: str) -> dict[str, dict[str, dict]]:
    """The cells of a score table by system and condition."""
    unparsed = {}
    if metric == "accuracy":
        unparsed = {
            (row["system"], row["condition"]): row["value"]
            for row in results.scores["scores"]
            if (row["suite"], row["metric"]) == (suite, "unparsed")
        }
    cells: dict[str, dict[str, dict]] = {}
    for row in results.scores["scores"]:
        if (row["suite"], row["metric"]) == (suite, metric):
            cell = row | {"unparsed": unparsed.get((row["system"], row["condition"]))}
            cells.setdefault(row["system"], {})[row["condition"]] = cell
    return cells


def mark_best(cells: dict[str, dict[str, dict]], conditions: list[str], methods: list[str]) -> None:
    """Adds `best` to the cells of `conditions`: whether a method has the highest value of its column."""
    for condition in conditions:
        top = max(cells[method][condition]["value"] for method in methods if condition in cells[method])
        for system, by_condition in cells.items():
            if cell := by_condition.get(condition):
                cell["best"] = system in methods and cell["value"] == top


def word_error_rates(scores: dict, suite: str) -> dict[str, dict[str, float]]:
    """The word error rate of each transcriber by condition."""
    rates: dict[str, dict[str, float]] = {}
    for row in scores["wer"]:
        if row["suite"] == suite:
            rates.setdefault(row["asr_adapter"], {})[row["condition"]] = row["value"]
    return rates


def wer_only_suites(scores: dict) -> list[str]:
    """The suites of recordings without questions whose word error rates `people_tables` does not show."""
    scored = {row["suite"] for row in [*scores["scores"], *scores["people"]]}
    return list(dict.fromkeys(row["suite"] for row in scores["wer"] if row["suite"] not in scored))


def people_tables(results: Results) -> list[dict]:
    """A table for each suite of recordings that are only transcribed: {suite, transcribers, parts}.

    `parts` holds (title, key of a row's label, rows): the sets as recorded, the sets degraded, and all
    recordings by condition. A row has `sign`, whether the student is better or worse than Whisper.
    """
    rows = [row | {"sign": error_sign(row["difference"])} for row in results.scores["people"]]
    tables = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        of_suite = [row for row in rows if row["suite"] == suite]
        groups = [
            ("as recorded", "set", [row for row in of_suite if row["condition"] == "clean"]),
            ("degraded", "set", [row for row in of_suite if row["condition"] == "degraded"]),
            ("all recordings, by condition", "condition", [row for row in of_suite if row["set"] == "all"]),
        ]
        transcribers = [part["transcriber"] for part in of_suite[0]["transcribers"]]
        parts = [part for part in groups if part[2]]
        tables.append({"suite": suite, "transcribers": transcribers, "parts": parts})
    return tables


def error_sign(difference: dict) -> str:
    """`better` or `worse` where the interval of a difference of errors excludes 0, else `open`."""
    return "open" if difference["low"] is None else sign(-difference["high"], -difference["low"])


def gain_table(results: Results, suite: str) -> dict:
    """Recovery and paired tests of a suite's primary metric: {suite, metric, conditions, recovery, paired}.

    Each of the last two holds (label, cells by condition).
    """
    labels = {"suite": suite, "metric": results.primary_metric(suite)}
    recovery: dict[str, dict[str, dict]] = {}
    paired: dict[str, dict[str, dict]] = {}
    for row in results.scores["recovery"]:
        if labels.items() <= row.items() and row["n"] >= MIN_ROWS:
            recovery.setdefault(row["system"], {})[row["condition"]] = row
    for row in results.scores["paired"]:
        if labels.items() <= row.items():
            cell = row | {"sign": sign(row["low"], row["high"])}
            paired.setdefault(f"{row['a']} − {row['b']}", {})[row["condition"]] = cell
    present = {condition for cells in [*recovery.values(), *paired.values()] for condition in cells}
    return labels | {
        "conditions": [name for name in ("all", "degraded", *results.conditions, "text") if name in present],
        "recovery": list(recovery.items()),
        "paired": list(paired.items()),
    }


def check_tables(results: Results) -> list[tuple[str, list[dict]]]:
    """(source, checks) of the gate, of validation and of the reinforcement of each method."""
    hacking = results.scores["reward_hacking"].items()
    return [
        ("gate", results.gate["checks"]),
        ("validation", results.validation["checks"]),
        *((f"reward hacking, {method}", checks) for method, checks in hacking),
    ]


def data_counts(results: Results) -> list[dict]:
    """{title, bars} of what the data stages accept and reject; `bars` are (label, count), largest first."""
    clips = results.clips.values()
    heldout = {clip.voice for clip in clips if clip.heldout_voice}
    voices = Counter(clip.voice + " (held out)" * (clip.voice in heldout) for clip in clips)
    rejected = [(f"rejected: {reason}", count) for reason, count in ranked(results.synthesis["rejected"])]
    conditions: Counter[str] = Counter(clip.condition for clip in clips)
    return [
        {"title": "Texts of the teacher", "bars": [("kept", results.synthesis["kept"]), *rejected]},
        {"title": "Quarantined clips", "bars": ranked(results.validation["reasons"])},
        {"title": "Clips and rows of suites that are not scored", "bars": ranked(unscored(results))},
        {"title": "Accepted clips by voice", "bars": ranked(voices)},
        {"title": "Accepted clips by condition", "bars": ranked(conditions)},
    ]


def unscored(results: Results) -> Counter[str]:
    """The number of clips and rows of each suite that are not scored, by reason."""
    counts: Counter[str] = Counter()
    for suite, part in results.validation["suites"].items():
        for reason, count in [*part["reasons"].items(), *part["refused"].items()]:
            counts[f"{suite}: {reason}"] += count
    return counts


def ranked(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(plain(label), count) for label, count in Counter(counts).most_common()]


def minutes_by_stage(results: Results) -> list[tuple[str, float]]:
    """(stage, minutes) in the order of the pipeline."""
    return [
        ("synthesize", results.synthesis["minutes"]),
        ("voice", results.voice["minutes"]),
        ("features", results.measured["minutes"]),
        *((f"suite {name}", minutes) for name, minutes in results.suite_minutes.items()),
        *((f"align {method}", training["minutes"]) for method, training in results.training.items()),
        ("evaluate", results.scores["minutes"]),
    ]
