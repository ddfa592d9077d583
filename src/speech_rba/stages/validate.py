"""Checks every clip against the data contract and quarantines what breaks it.

rows.jsonl; manifest.jsonl with its clips and table.jsonl, of the rows and of each suite; questions.jsonl of
each suite -> report.json, accepted.jsonl, accepted_suites.jsonl, quarantine.jsonl, data_docs/
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import soundfile
from tqdm import tqdm

from speech_rba.config import Params, Validate
from speech_rba.data import contract
from speech_rba.data.clip_table import ClipSet, accepted_lines, build_clip_table
from speech_rba.data.contract import Rule
from speech_rba.data.data_docs import Results, write_data_docs
from speech_rba.errors import UserError
from speech_rba.records import RECORDED, Clip, Feature, Quarantined, Question, Row, read_jsonl, write_jsonl
from speech_rba.stages import main, publish


@dataclass(frozen=True)
class Rules:
    """The rules for each clip, for all clips together, and for those that are accepted."""

    of_clips: list[Rule]
    of_all: list[Rule]
    of_accepted: list[Rule]


@dataclass(frozen=True)
class Judgement:
    """The clips to keep, those to keep out, every check, and its results for the Data Docs."""

    accepted: list[Clip]
    quarantined: list[Quarantined]
    checks: list[dict]
    results: Results

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
    params: Params,
    rows: Path,
    voice: Path,
    features: Path,
    suites: Path,
    suite_features: Path,
    out: Path,
    metrics: Path,
) -> None:
    """Publishes the report, and the clips that break no rule; the gate decides whether they are enough.

    The suites are reported apart, so that another suite changes nothing for training unless it is leaked.

    Raises:
        UserError: a line of an input is no valid row, or a clip's path leaves its folder.
    """
    limits, names = params.validate_, list(params.evaluate.suites)
    questions = {name: read_jsonl(suites / name / "questions.jsonl", Question) for name in names}
    written = read_jsonl(rows / "rows.jsonl", Row)
    rules = aligned_rules(limits, list(params.voice.conditions))
    judged = judge(clip_set(voice, features, written, questions), limits, rules)
    judged_suites = {}
    for name in names:
        clips = clip_set(suites / name, suite_features / name, [], {name: questions[name]})
        judged_suites[name] = judge(clips, limits, suite_rules(clips.clips, limits))
    report = judged.report() | {"suites": {name: j.report() for name, j in judged_suites.items()}}
    for name in names:
        refused = json.loads((suites / name / "report.json").read_text())["causes"]
        report["suites"][name] |= {"refused": refused}
    with publish(out) as folder:
        write_clips(folder, judged, judged_suites.values())
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        results = {"rows": judged.results} | {f"suite-{name}": j.results for name, j in judged_suites.items()}
        write_data_docs(folder / "data_docs", report, results)
    with publish(metrics) as folder:
        counts = {key: report[key] for key in ("num_clips", "num_accepted", "num_quarantined", "reasons")}
        (folder / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    show(report)


def clip_set(folder: Path, features: Path, rows: list[Row], questions: dict[str, list[Question]]) -> ClipSet:
    """The clips in `folder`, what was measured on them, and whether each can be read."""
    clips = read_jsonl(folder / "manifest.jsonl", Clip)
    progress = tqdm(clips, desc="clips", unit="clip", mininterval=2)
    unreadable = [not readable(folder, clip) for clip in progress]
    return ClipSet(clips, read_jsonl(features / "table.jsonl", Feature), rows, questions, unreadable)


def aligned_rules(limits: Validate, conditions: list[str]) -> Rules:
    """The rules for the clips of synthesized rows, which are recorded in these conditions."""
    return Rules(contract.row_rules(limits), contract.table_rules(), contract.accepted_rules(conditions))


def suite_rules(clips: list[Clip], limits: Validate) -> Rules:
    """The rules for the clips of a suite."""
    row_rules = contract.suite_row_rules(limits, any(clip.engine == RECORDED for clip in clips))
    return Rules(row_rules, contract.suite_table_rules(), contract.accepted_suite_rules())


def judge(clips: ClipSet, limits: Validate, rules: Rules) -> Judgement:
    """The clips that `rules` accept and quarantine, with every check."""
    table = build_clip_table(clips, limits.leak_ngram)
    of_clips = contract.check(table, rules.of_clips)
    of_all = contract.check(table, rules.of_all)
    of_accepted = contract.check(accepted_lines(table, of_clips.broken), rules.of_accepted)
    broken = of_clips.broken
    return Judgement(
        accepted=[clip for line, clip in enumerate(clips.clips) if line not in broken],
        quarantined=[quarantined(clips.clips[line], broken[line]) for line in sorted(broken)],
        checks=of_clips.checks + of_all.checks + of_accepted.checks,
        results={
            "Each clip": of_clips.results,
            "All clips": of_all.results,
            "Accepted clips": of_accepted.results,
        },
    )


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


def write_clips(folder: Path, rows: Judgement, suites: Iterable[Judgement]) -> None:
    """`folder` has the accepted clips of the rows, those of the suites, and all quarantined ones."""
    suites = list(suites)
    write_jsonl(folder / "accepted.jsonl", rows.accepted)
    write_jsonl(folder / "accepted_suites.jsonl", [clip for suite in suites for clip in suite.accepted])
    write_jsonl(folder / "quarantine.jsonl", [clip for part in (rows, *suites) for clip in part.quarantined])


def show(report: dict) -> None:
    """Prints a line for the rows and each suite, and the critical checks that failed."""
    for name, part in {"rows": report, **report["suites"]}.items():
        reasons = part["reasons"] or "none"
        print(f"{name}: {part['num_accepted']} of {part['num_clips']} clips accepted, quarantined: {reasons}")
        failed = [check["name"] for check in part["checks"] if check["critical"] and not check["passed"]]
        if failed:
            print(f"{name}: critical checks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(run)
