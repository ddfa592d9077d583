"""The data contract, row by row.

rows.jsonl; manifest.jsonl with its clips and table.jsonl, of the rows and of each suite; questions.jsonl of each suite
-> report.json, accepted.jsonl, accepted_suites.jsonl, quarantine.jsonl, report.html
"""

import hashlib
import html
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import soundfile
from tqdm import tqdm

from speech_rba.config import Params, Validate
from speech_rba.data import contract
from speech_rba.data.contract import Rule
from speech_rba.errors import UserError
from speech_rba.records import RECORDED, Clip, Feature, Quarantined, Question, Row, read_jsonl, write_jsonl
from speech_rba.stages import main, publish


@dataclass(frozen=True)
class Judgement:
    """What the contract says of some clips: those to keep, those to keep out, and each check."""

    accepted: list[Clip]
    quarantined: list[Quarantined]
    checks: list[dict]

    def report(self) -> dict:
        """The counts and checks, as the gate reads them."""
        reasons = Counter(reason for clip in self.quarantined for reason in clip.reasons)
        return {
            "num_clips": len(self.accepted) + len(self.quarantined),
            "num_accepted": len(self.accepted),
            "num_quarantined": len(self.quarantined),
            "reasons": dict(reasons.most_common()),
            "checks": self.checks,
        }


def run(
    params: Params, rows: Path, voice: Path, features: Path, suites: Path, suite_features: Path, out: Path
) -> None:
    """Checks every clip, quarantines what breaks a rule and reports it; whether that is good enough, the gate says.

    What is said of the suites stands apart, so that another suite changes nothing for training unless it is leaked.

    Raises:
        UserError: a line of an input is no valid row, or a clip's path leaves its folder.
    """
    names = list(params.evaluate.suites)
    questions = {name: read_jsonl(suites / name / "questions.jsonl", Question) for name in names}
    written = read_jsonl(rows / "rows.jsonl", Row)
    judged = judge(voice, features, written, questions, params.validate_, aligned_rules(params.validate_))
    of_suites = {}
    for name in names:
        rules = suite_rules(suites / name, params.validate_)
        own = {name: questions[name]}
        of_suites[name] = judge(suites / name, suite_features / name, [], own, params.validate_, rules)
    report = judged.report() | {"suites": {name: judgement.report() for name, judgement in of_suites.items()}}
    for name in names:
        report["suites"][name] |= {
            "refused": json.loads((suites / name / "report.json").read_text())["causes"]
        }
    with publish(out) as folder:
        write_jsonl(folder / "accepted.jsonl", judged.accepted)
        write_jsonl(
            folder / "accepted_suites.jsonl", [clip for j in of_suites.values() for clip in j.accepted]
        )
        every = [judged, *of_suites.values()]
        write_jsonl(
            folder / "quarantine.jsonl", [clip for judgement in every for clip in judgement.quarantined]
        )
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        counts = {key: report[key] for key in ("num_clips", "num_accepted", "num_quarantined", "reasons")}
        (folder / "metrics.json").write_text(json.dumps(counts, indent=2))
        (folder / "report.html").write_text(page(report), encoding="utf-8")
    show(report)


def aligned_rules(limits: Validate) -> tuple[list[Rule], list[Rule], list[Rule]]:
    """The rules of each clip, of all, and of those that are accepted, for the clips of synthesized rows."""
    return contract.row_rules(limits), contract.table_rules(), contract.accepted_rules()


def suite_rules(suite: Path, limits: Validate) -> tuple[list[Rule], list[Rule], list[Rule]]:
    """As `aligned_rules`, for the clips of a suite."""
    recorded = any(clip.engine == RECORDED for clip in read_jsonl(suite / "manifest.jsonl", Clip))
    row_rules = contract.suite_row_rules(limits, recorded)
    return row_rules, contract.suite_table_rules(), contract.accepted_suite_rules()


def judge(
    folder: Path, features: Path, rows: list[Row], questions: dict[str, list[Question]], limits: Validate,
    rules: tuple[list[Rule], list[Rule], list[Rule]],
) -> Judgement:  # fmt: skip
    """What `rules` say of the clips in `folder`."""
    clips = read_jsonl(folder / "manifest.jsonl", Clip)
    unreadable = [
        not readable(folder, clip) for clip in tqdm(clips, desc="clips", unit="clip", mininterval=2)
    ]
    measured = read_jsonl(features / "table.jsonl", Feature)
    table = contract.clip_table(clips, measured, rows, questions, unreadable, limits.leak_ngram)
    of_clips, of_all, of_accepted = rules
    checks, broken = contract.check(table, of_clips)
    checks += contract.check(table, of_all)[0]
    checks += contract.check(contract.remaining(table, broken), of_accepted)[0]
    accepted = [clip for line, clip in enumerate(clips) if line not in broken]
    return Judgement(accepted, [quarantined(clips[line], broken[line]) for line in sorted(broken)], checks)


def show(report: dict) -> None:
    """A line for the rows and each suite, and the critical checks that failed."""
    for name, part in {"rows": report, **report["suites"]}.items():
        lost = part["reasons"] or "none"
        print(f"{name}: {part['num_accepted']} of {part['num_clips']} clips accepted, quarantined: {lost}")
        failed = [check["name"] for check in part["checks"] if check["critical"] and not check["passed"]]
        if failed:
            print(f"{name}: critical checks failed: {', '.join(failed)}")


def quarantined(clip: Clip, reasons: list[str]) -> Quarantined:
    return Quarantined(clip_id=clip.id, row_id=clip.row_id, transcript=clip.transcript, reasons=reasons)


def readable(voice: Path, clip: Clip) -> bool:
    """Whether the clip's file is the one of the manifest and holds sound.

    Raises:
        UserError: its path leaves the voice folder.
    """
    path = PurePosixPath(clip.path)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"clip {clip.id} has the path {clip.path!r}; allowed are paths inside {voice}")
    try:
        with open(voice / path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != clip.sha256:
                return False
            file.seek(0)
            return soundfile.info(file).frames > 0
    except (OSError, soundfile.SoundFileError):
        return False


STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --held: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #f85149; --held: #d29922 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem }
div { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line) }
.passed { color: var(--good) } .failed { color: var(--bad); font-weight: 600 } .quarantined { color: var(--held) }
"""


def page(report: dict) -> str:
    """The report as one HTML page that needs nothing else."""
    parts = {"Synthesized rows": report} | {f"Suite {name}": part for name, part in report["suites"].items()}
    body = "\n".join(section(title, part) for title, part in parts.items())
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Data checks</title>
<style>{STYLE}</style>
<h1>Data checks</h1>
{body}
</html>
"""


def section(title: str, part: dict) -> str:
    """HTML: the counts and checks of one part of the data."""
    checks = ""
    for check in part["checks"]:
        state = "passed" if check["passed"] else "failed" if check["critical"] else "quarantined"
        cells = (
            check["name"],
            check["expected"],
            check["observed"],
            "critical" if check["critical"] else "by clip",
        )
        escaped = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        checks += f"<tr><td class={state}>{state}</td>{escaped}</tr>\n"
    lost = part["reasons"] | {f"refused: {cause}": count for cause, count in part.get("refused", {}).items()}
    reasons = "".join(f"<tr><td>{html.escape(k)}</td><td>{v}</td></tr>\n" for k, v in lost.items())
    return f"""<h2>{html.escape(title)}</h2>
<p>{part["num_accepted"]} of {part["num_clips"]} clips accepted, {part["num_quarantined"]} quarantined.</p>
<div><table><tr><th>State</th><th>Check</th><th>Expected</th><th>Observed</th><th>Kind</th></tr>
{checks}</table></div>
<h3>Kept out, by reason</h3>
<div><table><tr><th>Reason</th><th>Clips or rows</th></tr>
{reasons or "<tr><td>none</td><td>0</td></tr>"}</table></div>"""


if __name__ == "__main__":
    main(run)
