"""The sentences of the page that depend on the scores."""

from speech_rba.report.results import Results, Style, plain

MIN_ROWS = 20  # a bootstrap over fewer texts gives intervals that are far too narrow
VERDICTS = {
    "better": "is better than",
    "worse": "is worse than",
    "open": "does not differ significantly from",
}


def sign(low: float, high: float) -> str:
    """`better` or `worse` when the interval of a difference excludes 0, else `open`."""
    return "better" if low > 0 else "worse" if high < 0 else "open"


def pair_sign(pair: dict, num_rows: int) -> str:
    """As `sign`; `open` with too few texts for a reliable interval."""
    return sign(pair["low"], pair["high"]) if num_rows >= MIN_ROWS else "open"


def headline(results: Results) -> str:
    """How the best method of each suite compares with the cascade, over degraded clips if there are any."""
    comparable = [item for item in results.best if is_comparable(results, item)]
    degraded = [item for item in comparable if item["condition"] == "degraded"]
    items = degraded or comparable
    if (num_rows := max(item["num_rows"] for item in items)) < MIN_ROWS:
        return f"Only {num_rows} held-out texts have answers: too few to compare the systems."
    items = [item for item in items if item["num_rows"] >= MIN_ROWS]
    where = "In degraded conditions" if degraded else "On clean speech"
    return f"{where}, {' and '.join(clauses(results, items))}."


def clauses(results: Results, items: list[dict]) -> list[str]:
    """A clause for each suite; a claim that the clause before makes too is not repeated."""
    parts = []
    previous = ""
    for item in items:
        claim = f"{item['system']} {VERDICTS[pair_sign(item['pairs'][0], item['num_rows'])]} the cascade"
        evidence = f"on {plain(item['suite'])} ({gains(item, results.style(item['metric']))})"
        parts.append(evidence if claim == previous else f"{claim} {evidence}")
        previous = claim
    return parts


def gains(item: dict, style: Style) -> str:
    """The differences of a suite's best method from the cascade and from base."""
    cascade, base = item["pairs"][:2]
    unit = f"{'points ' if style.scale == 100 else ''}{style.label.split(' (')[0]}"
    return f"{style.text(cascade['difference'], '+')} {unit}; {style.text(base['difference'], '+')} over base"


def is_comparable(results: Results, item: dict) -> bool:
    """Whether a comparison means something: not where a metric needs a text system above 0 and it is not."""
    labels = {"suite": item["suite"], "metric": item["metric"], "condition": "text", "system": "text"}
    low = next((row["low"] for row in results.scores["scores"] if labels.items() <= row.items()), 0)
    return not results.style(item["metric"]).needs_text_above_0 or low > 0
