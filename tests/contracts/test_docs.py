"""The docs agree with the repository: tables, links, and names of files, parameters and make targets."""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import tables

ROOT = Path(__file__).parents[2]
PAGES = [*tables.pages(), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
RESULTS = sorted((ROOT / "results").glob("*.json"))
IDS = {"ids": lambda path: path.relative_to(ROOT).as_posix()}

HEADER_KEYS = ["command", "commit", "machine", "minutes", "seeds", "rows"]
ROW_KEYS = ["table", "system", "versus", "suite", "condition", "metric", "value", "low", "high", "n"]

# A path in backticks or in a link text, below a folder that Git tracks.
TRACKED_PATH = re.compile(
    r"`((?:benchmarks|configs|data|docker|docs|flows|results|src|tests|tools)/[\w./-]*)`"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([\w-]+))?\)")
PARAMETER = re.compile(rf"[`' ]((?:{'|'.join(PARAMS)})\.[a-z]\w*(?:\.[a-z]\w*)*)[`=:' ]")
MAKE = re.compile(r"(?:`|^    |&& )make ([a-z_-]+)", re.MULTILINE)
GROWING = {"evaluate.suites"}  # its keys are the user's

PRIVATE_WORDS = re.compile(
    r"""\b(?:
        ears | trained_ears | as_it_came | as\ it\ came
        | (?<!room\ )acoustics | manner | traits? | how_it_was_said | how\ it\ was\ said
        | doubt\w* | min_doubt | adapter_min_doubt
        | (?<!["'])hears? | heard | hearing | misheard | mishears?
        | spoil\w* | in\ the\ wild | hard\ (?:conditions?|speech|clips?) | harder\ clips?
        | agreement | reference_logp | relevance
        | alarms? | told\ from | told\ apart | not\ told
        | kept_share | dense_weight | untrained | crown\w*
        | of\ (?:its|their|his|your|our)\ own
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
# `chosen` is TRL's name for the preferred answer, so DPO may use it.
PRIVATE_NAMES = {"asked", "chosen", "found", "like", "mine", "own", "said", "some", "told", "wanted", "what"}
OTHER_USES = {  # words of English texts that are read, and a key that seeds are drawn from
    "src/speech_rba/evaluation/parsing.py": {"doubt"},
    "tests/evaluation/test_parsing.py": {"doubt"},
    "src/speech_rba/pretraining/attribute_clips.py": {"manner"},
}
WITHOUT_WORD_CHECK = re.compile(
    r"data/|artifacts/|LICENSE|NOTICE|requirements|\.dvc/|tests/contracts/test_docs\.py"
    r"|.*\.(png|lock|safetensors)$"
)


def tracked_files() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [ROOT / name for name in names.stdout.splitlines() if (ROOT / name).is_file()]


def parameter(path: str) -> Any:
    """The value of `group.key` in params.yaml; raises KeyError where there is none."""
    value: Any = PARAMS
    for key in path.split("."):
        value = value[key]
    return value


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def private_names(source: str, allowed: set[str]) -> list[tuple[int, str]]:
    """Line and name of every variable and argument that is called as PRIVATE_NAMES lists."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            names.append((node.lineno, node.arg))
    return sorted({(line, name) for line, name in names if name in PRIVATE_NAMES - allowed})


@pytest.mark.parametrize("page", tables.pages(), **IDS)
def test_tables_show_the_figures_of_results(page):
    assert page.read_text() == tables.with_tables(page.read_text()), "run `python benchmarks/tables.py`"


@pytest.mark.parametrize("path", RESULTS, **IDS)
def test_a_result_has_the_agreed_form_and_each_of_its_tables_is_shown(path):
    result = json.loads(path.read_text())
    assert list(result) == HEADER_KEYS
    text = "".join(page.read_text() for page in tables.pages())
    for row in result["rows"]:
        assert list(row) == ROW_KEYS
        if row["low"] is not None and row["value"] is not None:
            assert row["low"] <= row["value"] <= row["high"], row
    for table in {row["table"] for row in result["rows"]}:
        assert re.search(rf"<!-- table: {path.stem} {re.escape(table)}[ >]", text), f"no page shows {table}"


def test_a_table_has_a_line_a_system_and_the_written_digits():
    row = dict.fromkeys(ROW_KEYS) | {
        "suite": "spoken_qa",
        "condition": "clean",
        "metric": "accuracy",
        "n": "20",
    }
    rows = [
        row | {"system": "base", "value": "0.5"},
        row | {"system": "rba", "value": "0.625", "low": "0.6", "high": "0.65"},
        row | {"system": "rba", "versus": "base", "value": "0.125", "low": "0.05", "high": "0.2"},
        row | {"system": "sft", "versus": "base", "value": "0.025", "low": "-0.05", "high": "0.1"},
    ]
    assert tables.render(rows, "system").splitlines() == [
        "| system | accuracy, %, n 20 |",
        "| --- | --- |",
        "| base | 50.0 |",
        "| rba | 62.5 (60.0 to 65.0) |",
        "| rba − base | **+12.5** (5.0 to 20.0) |",
        "| sft − base | +2.5 (-5.0 to 10.0) |",
    ]


def test_a_table_states_the_number_of_items_in_each_line_where_columns_mix_several():
    row = dict.fromkeys(ROW_KEYS) | {"system": "base", "metric": "teacher_logp"}
    rows = [row | {"suite": suite, "value": "-1.50", "n": n} for suite, n in (("one", "7"), ("two", "1200"))]
    assert tables.render(rows, "items").splitlines()[2:] == [
        "| one, n 7 | -1.50 |",
        "| two, n 1,200 | -1.50 |",
    ]


def test_a_marker_of_a_missing_table_is_an_error():
    with pytest.raises(ValueError, match="has no table 'nothing'"):
        tables.with_tables("<!-- table: default_run nothing -->\n<!-- end -->")


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_links_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(path), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_named_files_parameters_and_targets_exist(page):
    text = page.read_text()
    missing = [path for path in TRACKED_PATH.findall(text) if not (ROOT / path).exists()]
    for path in PARAMETER.findall(text):
        if any(path.startswith(f"{group}.") for group in GROWING) or path.endswith((".py", ".yaml", ".md")):
            continue
        try:
            parameter(path)
        except (KeyError, TypeError):
            missing.append(path)
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing += [f"make {target}" for target in MAKE.findall(text) if target not in targets]
    assert not missing


def test_private_words_are_found_as_whole_words():
    text = "pyroomacoustics, room acoustics, years, harder, a hard limit, untraineds, appears, overheard"
    assert not PRIVATE_WORDS.search(text)
    for word in ("the ears", "in doubt", "Heard", "hard conditions", "of their own", "trained_ears"):
        assert PRIVATE_WORDS.search(word), word
    assert private_names("found = 1\ndef f(asked, other): ...\nfor chosen in []: ...", {"chosen"}) == [
        (1, "found"),
        (2, "asked"),
    ]


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 90
    assert all(line.count("|") <= 6 for line in lines if line.startswith("|")), (
        "a table of more than five columns"
    )


def test_no_private_word_is_left():
    """Words that only this project uses for what the field has a term for: CONTRIBUTING.md."""
    hits = []
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        if WITHOUT_WORD_CHECK.match(name):
            continue
        text = path.read_text()
        for number, line in enumerate(text.splitlines(), 1):
            words = {match[0] for match in PRIVATE_WORDS.finditer(line)} - OTHER_USES.get(name, set())
            hits += [f"{name}:{number}: {word}" for word in sorted(words)]
        if path.suffix == ".py":
            allowed = {"chosen"} if path.stem == "dpo" else set()
            hits += [f"{name}:{number}: the variable {word}" for number, word in private_names(text, allowed)]
    assert not hits, "\n".join(["", *hits])
