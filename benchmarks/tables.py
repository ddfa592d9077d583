"""Writes the tables of the docs from results/*.json: `python benchmarks/tables.py`.

A page holds `<!-- table: FILE TABLE -->` and `<!-- end -->`. Between them stand the rows of
results/FILE.json whose `table` is TABLE. A line of the table is one system, or what a third word in the
marker names: a key of LINES.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: (\w+) ([\w.]+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
FIELDS = ("system", "suite", "condition", "metric")
LINES = {
    "system": ["system"],
    "suite": ["suite"],
    "condition": ["condition"],
    "items": ["suite", "condition"],
}
PERCENT = {  # metrics that are fractions and shown in percent
    "accuracy",
    "adapted_share",
    "corrected_share",
    "followed",
    "forgetting_rate",
    "invented_share",
    "long_hypotheses",
    "recovery",
    "repeated_question_3grams",
    "same_answer_as_teacher",
    "set_apart_share",
    "wer",
    "word_accuracy",
}
LABELS = {
    "alignment": "teacher's questions",
    "heldout_training_texts": "held-out training texts",
    "llama_questions": "LLaMA-Questions",
    "spoken_qa": "spoken QA",
    "ifeval": "IFEval",
    "tatoeba": "Tatoeba",
    "asr_test_clips": "test clips",
    "translation_de": "50 German sentences",
    "translation_es": "50 Spanish sentences",
    "people": "people",
    "people_53_words": "people, 53 words",
    "prompt_retrieval_mrr": "prompt-retrieval MRR",
    "teacher_logp": "log-likelihood of the teacher's answer",
    "teacher_pmi": "PMI under the teacher",
    "token_f1": "token F1",
    "followed": "prompts followed, strict",
    "num_steps": "steps",
    "wer": "WER",
    "bleu": "BLEU",
    "chrf": "chrF2",
}

Row = dict[str, Any]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_result(path: Path) -> dict[str, Any]:
    """A file of results/. Numbers stay text, so that a table shows the digits that were written."""
    return json.loads(path.read_text(), parse_float=str, parse_int=str)


def header(command: str, started: float, seeds: list[int]) -> dict[str, Any]:
    """What stands above the rows of a result that this process measured since `started`, by
    time.perf_counter."""
    commit = subprocess.check_output(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, text=True).strip()
    changed = subprocess.check_output(["git", "status", "--porcelain", "-uno"], cwd=ROOT, text=True).strip()
    return {
        "command": command,
        "commit": f"{commit} with changes" if changed else commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "seeds": seeds,
    }


def write_result(path: Path, header: dict[str, Any], rows: list[Row]) -> None:
    """A result file with one row a line, which makes its changes readable in Git."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in header.items()]
    body = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    path.write_text("\n".join(["{", *lines, '  "rows": [', body, "  ]", "}", ""]))


def with_tables(page: str) -> str:
    """The text of a page with every marked table made anew.

    Raises:
        ValueError: a result file has no row of a table.
    """

    def fill(match: re.Match) -> str:
        begin, name, table, line, end = match.groups()
        rows = [row for row in read_result(ROOT / f"results/{name}.json")["rows"] if row["table"] == table]
        if not rows:
            raise ValueError(f"results/{name}.json has no table {table!r}: correct the marker")
        return begin + render(rows, line or "system") + end

    return MARKED.sub(fill, page)


def render(rows: list[Row], line: str) -> str:
    """A Markdown table: one line for each value of `line`, one column for each of the other fields."""
    in_line = LINES[line]
    in_column = [field for field in FIELDS if field not in in_line]
    lines = dict.fromkeys(part(row, in_line) for row in rows)
    columns = dict.fromkeys(part(row, in_column) for row in rows)
    decimals = decimals_by_metric(rows)
    cells = {(part(row, in_line), part(row, in_column)): cell(row, decimals[row["metric"]]) for row in rows}
    sizes = {key: size([row for row in rows if part(row, in_column) == key]) for key in columns}
    by_line = all(sizes[key] is None for key in columns)
    header = [line, *(heading(rows, in_column, key, sizes[key]) for key in columns)]
    texts = [header, ["---"] * len(header)]
    for key in lines:
        number = size([row for row in rows if part(row, in_line) == key]) if by_line else None
        title = with_size(", ".join(name(value) for value in key if value), number)
        texts.append([title, *(cells.get((key, column), "") for column in columns)])
    return "".join(f"| {' | '.join(text)} |\n" for text in texts)


def part(row: Row, fields: list[str]) -> tuple[str, ...]:
    """The values of some fields; a difference names both of its systems."""
    return tuple(difference(row) if field == "system" else row[field] or "" for field in fields)


def difference(row: Row) -> str:
    return f"{name(row['system'])} − {name(row['versus'])}" if row["versus"] else row["system"]


def size(rows: list[Row]) -> str | None:
    """The number of items, if it is the same in all rows."""
    sizes = {row["n"] for row in rows}
    return sizes.pop() if len(sizes) == 1 else None


def with_size(text: str, number: str | None) -> str:
    return f"{text}, n {int(number):,}" if number else text


def heading(rows: list[Row], fields: list[str], key: tuple[str, ...], number: str | None) -> str:
    """The fields in which columns differ, the unit, and the number of items."""
    different = [
        name(value)
        for position, (field, value) in enumerate(zip(fields, key, strict=True))
        if value and (field == "metric" or len({part(row, fields)[position] for row in rows}) > 1)
    ]
    unit = ["%"] if is_percent(key[-1]) else []
    return with_size(", ".join(different + unit), number)


def name(value: str) -> str:
    """A suite, condition, metric or system as a reader sees it."""
    if value in LABELS:
        return LABELS[value]
    words = value.split(", ")
    return ", ".join(LABELS.get(word, word.replace("_", " ")) for word in words)


def is_percent(metric: str) -> bool:
    return metric.split(" of ")[0] in PERCENT


def decimals_by_metric(rows: list[Row]) -> dict[str, int]:
    """The digits behind the point that a table shows: the most that its file has."""
    decimals: dict[str, int] = {}
    for row in rows:
        metric, shift = row["metric"], 2 if is_percent(row["metric"]) else 0
        written = [len(row[key].partition(".")[2]) - shift for key in ("value", "low", "high") if row[key]]
        decimals[metric] = max(0, decimals.get(metric, 0), *written)
    return decimals


def cell(row: Row, decimals: int) -> str:
    """`value (low to high)`; a difference has a sign, and is bold where its interval excludes 0."""
    scale = 100 if is_percent(row["metric"]) else 1
    sign = "+" if row["versus"] else ""
    value = f"{scale * float(row['value']):{sign},.{decimals}f}" if row["value"] else ""
    if row["low"] is None:
        return value
    low, high = scale * float(row["low"]), scale * float(row["high"])
    if row["versus"] and low * high > 0 and value:
        value = f"**{value}**"
    return f"{value} ({low:.{decimals}f} to {high:.{decimals}f})".strip()


def main() -> None:
    for page in pages():
        text = page.read_text()
        if (new := with_tables(text)) != text:
            page.write_text(new)
            print(f"wrote {page.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
