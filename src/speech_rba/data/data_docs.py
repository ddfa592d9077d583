"""Data Docs of the data contract: static HTML pages that need no network and no other file.

The results are rendered by Great Expectations. Its own site builder is not used: the pages that it writes
load scripts and styles from seven hosts, hold the time of the run, and come with 4 MB of images and fonts.
"""

import html
import re
from pathlib import Path

import numpy as np
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaSectionView

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --held: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #f85149; --held: #d29922 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem }
div { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--line) }
.passed, .text-success { color: var(--good) } .failed, .text-danger { color: var(--bad); font-weight: 600 }
.quarantined { color: var(--held) } .badge { font-family: monospace }
.fa-check-circle::before { content: "passed" } .fa-times::before { content: "failed" }
.fa-exclamation-triangle::before { content: "not evaluated" }
"""
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # names of foldable parts, drawn at random

Results = dict[str, list[ExpectationValidationResult]]  # by the clips that the rules are for


def write_data_docs(folder: Path, report: dict, results: dict[str, Results]) -> None:
    """`folder` has index.html with the checks of `report`, and a page for each part of the data.

    The parts are `rows` and `suite-NAME` for each suite of the report.
    """
    folder.mkdir()
    (folder / "index.html").write_text(index_page(report), encoding="utf-8")
    for name, results_by_stage in results.items():
        (folder / f"{name}.html").write_text(results_page(name, results_by_stage), encoding="utf-8")


def index_page(report: dict) -> str:
    """The counts and checks of the rows and of each suite, with links to the results."""
    body = [_part("Synthesized rows", "rows", report)]
    body += [_part(f"Suite {name}", f"suite-{name}", part) for name, part in report["suites"].items()]
    return _page("Data checks", "\n".join(body))


def results_page(part: str, results: Results) -> str:
    """The results of Great Expectations by column, with a sample of the values that break a rule."""
    sections = [
        f"<h2>{html.escape(title)}</h2>\n{_rendered(title, of_rules)}" for title, of_rules in results.items()
    ]
    return _page(f"Data checks: {part}", '<p><a href="index.html">All data</a></p>\n' + "\n".join(sections))


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
{body}
</html>
"""


def _part(title: str, name: str, part: dict) -> str:
    refused = {f"refused: {cause}": count for cause, count in part.get("refused", {}).items()}
    reasons = "".join(
        f"<tr><td>{html.escape(reason)}</td><td>{count}</td></tr>\n"
        for reason, count in (part["reasons"] | refused).items()
    )
    return f"""<h2>{html.escape(title)}</h2>
<p>{part["num_accepted"]} of {part["num_clips"]} clips accepted, {part["num_quarantined"]} quarantined.
<a href="{html.escape(name)}.html">Results by column</a></p>
<div><table><tr><th>State</th><th>Check</th><th>Expected</th><th>Observed</th><th>Kind</th></tr>
{"".join(map(_check_line, part["checks"]))}</table></div>
<h3>Kept out, by reason</h3>
<div><table><tr><th>Reason</th><th>Clips or rows</th></tr>
{reasons or "<tr><td>none</td><td>0</td></tr>"}</table></div>"""


def _check_line(check: dict) -> str:
    state = "passed" if check["passed"] else "failed" if check["critical"] else "quarantined"
    kind = "critical" if check["critical"] else "by clip"
    cells = (check["name"], check["expected"], check["observed"], kind)
    escaped = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr><td class={state}>{state}</td>{escaped}</tr>\n"


def _rendered(title: str, results: list[ExpectationValidationResult]) -> str:
    """HTML of Great Expectations for each column, the same for the same results."""
    for result in results:
        if isinstance(value := result.result.get("observed_value"), np.generic):
            result.result["observed_value"] = value.item()  # the renderer accepts Python's numbers only
    num_passed = sum(bool(result.success) for result in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": num_passed,
        "unsuccessful_expectations": len(results) - num_passed,
        "success_percent": 100 * num_passed / max(len(results), 1),
    }
    suite = ExpectationSuiteValidationResult(
        success=num_passed == len(results),
        results=results,
        suite_name=title,
        statistics=statistics,
        meta={"run_id": {"run_name": title, "run_time": "1970-01-01T00:00:00+00:00"}},
    )
    _, *columns = ValidationResultsPageRenderer().render(suite).sections  # the first repeats the statistics
    view = DefaultJinjaSectionView()
    sections = [
        view.render({"section": column.to_json_dict(), "section_loop": {"index": number}})
        for number, column in enumerate(columns, 1)
    ]
    return _without_random_names("\n".join(sections))


def _without_random_names(text: str) -> str:
    numbers = {name: f"part-{number}" for number, name in enumerate(dict.fromkeys(UUID.findall(text)))}
    return UUID.sub(lambda match: numbers[match[0]], text)
