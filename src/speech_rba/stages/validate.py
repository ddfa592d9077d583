"""The data contract, row by row.

data/suites/*/questions.jsonl, rows.jsonl, manifest.jsonl with its clips, table.jsonl
-> report.json, accepted.jsonl, quarantine.jsonl, report.html
"""

import hashlib
import html
import json
from collections import Counter
from pathlib import Path, PurePosixPath

import soundfile
from tqdm import tqdm

from speech_rba.data import contract
from speech_rba.data.benchmarks import read_benchmark
from speech_rba.errors import UserError
from speech_rba.params import Params
from speech_rba.records import Clip, Feature, Quarantined, Question, Row, read_jsonl, write_jsonl
from speech_rba.stages import main, publish


def run(params: Params, data: Path, rows: Path, voice: Path, features: Path, out: Path) -> None:
    """Checks every clip, quarantines what breaks a rule and reports it; whether that is good enough, the gate says.

    Raises:
        UserError: a line of an input is no valid row, or a clip's path leaves the voice folder.
    """
    limits = params.validate_
    clips = read_jsonl(voice / "manifest.jsonl", Clip)
    questions = {file.parent.name: read_jsonl(file, Question) for file in sorted(data.glob("suites/*/questions.jsonl"))}
    outside = [suite for suite in params.evaluate.suites if not (Path(suite) / "questions.jsonl").exists()]
    questions |= {Path(suite).name: [r.question for r in read_benchmark(suite)] for suite in outside}
    table = contract.clip_table(
        clips,
        read_jsonl(features / "table.jsonl", Feature),
        read_jsonl(rows / "rows.jsonl", Row),
        questions,
        [not readable(voice, clip) for clip in tqdm(clips, desc="clips", unit="clip")],
        limits.leak_ngram,
    )
    checks, broken = contract.check(table, contract.row_rules(limits))
    checks += contract.check(table, contract.table_rules())[0]
    accepted = [clip for line, clip in enumerate(clips) if line not in broken]
    checks += contract.check(contract.remaining(table, broken), contract.accepted_rules())[0]
    report = {
        "num_clips": len(clips),
        "num_accepted": len(accepted),
        "num_quarantined": len(broken),
        "reasons": dict(Counter(reason for reasons in broken.values() for reason in reasons).most_common()),
        "checks": checks,
    }
    with publish(out) as folder:
        write_jsonl(folder / "accepted.jsonl", accepted)
        write_jsonl(folder / "quarantine.jsonl", [quarantined(clips[line], broken[line]) for line in sorted(broken)])
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / "report.html").write_text(page(report), encoding="utf-8")
    failed = [check["name"] for check in checks if check["critical"] and not check["passed"]]
    print(f"{len(accepted)} of {len(clips)} clips accepted, quarantined: {report['reasons'] or 'none'}")
    print(f"critical checks failed: {', '.join(failed) or 'none'}")


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
    checks = ""
    for check in report["checks"]:
        state = "passed" if check["passed"] else "failed" if check["critical"] else "quarantined"
        cells = (check["name"], check["expected"], check["observed"], "critical" if check["critical"] else "by clip")
        escaped = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        checks += f"<tr><td class={state}>{state}</td>{escaped}</tr>\n"
    reasons = "".join(f"<tr><td>{html.escape(k)}</td><td>{v}</td></tr>\n" for k, v in report["reasons"].items())
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Data checks</title>
<style>{STYLE}</style>
<h1>Data checks</h1>
<p>{report["num_accepted"]} of {report["num_clips"]} clips accepted, {report["num_quarantined"]} quarantined.</p>
<div><table><tr><th>State</th><th>Check</th><th>Expected</th><th>Observed</th><th>Kind</th></tr>
{checks}</table></div>
<h2>Quarantined, by reason</h2>
<div><table><tr><th>Reason</th><th>Clips</th></tr>
{reasons or "<tr><td>none</td><td>0</td></tr>"}</table></div>
</html>
"""


if __name__ == "__main__":
    main(run)
