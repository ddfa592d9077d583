"""Everything the stages before measured, said and heard -> artifacts/report/index.html, one page."""

import json
from pathlib import Path

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, RECORDED, Answer, Clip, Feature, Row, read_jsonl
from speech_rba.report.page import REFERENCES, Results, render
from speech_rba.stages import main, publish

ACCEPTED = ("accepted.jsonl", "accepted_suites.jsonl")


def run(
    params: Params, synthesize: Path, voice: Path, features: Path, suites: Path, suite_features: Path,
    validation: Path, gate: Path, methods: Path, evaluation: Path, out: Path,
) -> None:  # fmt: skip
    """The page in `out`, of the test split.

    Raises:
        UserError: an input does not fit the others, as when a method was trained after the evaluation.
    """
    scores = _json(evaluation / "scores.json")
    scored = [system for system in scores["systems"] if system not in REFERENCES]
    if (wanted := params.align.methods) != scored:
        raise UserError(f"align.methods are {wanted}, but {evaluation} scored {scored}; run evaluate again")
    sources = {ALIGNMENT: (voice, features)}
    sources |= {name: (suites / name, suite_features / name) for name in params.evaluate.suites}
    clips = [c for name in ACCEPTED for c in read_jsonl(validation / name, Clip) if c.engine != RECORDED]
    tables = [read_jsonl(table / "table.jsonl", Feature) for _, table in sources.values()]
    results = Results(
        rows={row.id: row for row in read_jsonl(synthesize / "rows.jsonl", Row)},
        clips={clip.id: clip for clip in clips},  # what others recorded is not ours to copy into a page
        features={feature.clip_id: feature for table in tables for feature in table},
        answers=[
            answer for answer in read_jsonl(evaluation / "answers.jsonl", Answer) if answer.split == "test"
        ],
        scores=scores,
        synthesis=_json(synthesize / "report.json"),
        voice=_json(voice / "report.json"),
        measured=_json(features / "report.json"),
        suite_minutes={
            name: sum(_json(folder / "report.json")["minutes"] for folder in sources[name])
            for name in params.evaluate.suites
        },
        validation=_json(validation / "report.json"),
        gate=_json(gate / "gate.json"),
        training={method: _json(methods / method / "training.json") for method in scored},
        logs={method: _log(methods / method / "log.jsonl") for method in scored},
        recordings={clip.id: sources[clip.suite][0] / clip.path for clip in clips},
    )
    page = render(results, params.report.num_examples, params.evaluate.num_bootstrap, params.evaluate.seed)
    with publish(out) as folder:
        (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"report: {out / 'index.html'}, {len(page) / 2**20:.1f} MiB")


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main(run)
