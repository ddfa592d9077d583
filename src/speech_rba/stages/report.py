"""The outputs of all stages before -> artifacts/report/index.html, one page."""

import json
from dataclasses import dataclass
from pathlib import Path

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, RECORDED, Answer, Clip, Feature, Row, read_jsonl
from speech_rba.report.page import render
from speech_rba.report.results import REFERENCES, Results
from speech_rba.stages import main, publish

ACCEPTED = ("accepted.jsonl", "accepted_suites.jsonl")
DATA_DOCS = "data_docs/index.html"  # in the output of validate


@dataclass(frozen=True)
class Inputs:
    """The output folders of the stages before."""

    synthesize: Path
    voice: Path
    features: Path
    suites: Path
    suite_features: Path
    validation: Path
    gate: Path
    methods: Path
    evaluation: Path

    def sources(self, suites: list[str]) -> dict[str, tuple[Path, Path]]:
        """The folders of the clips and of the features of the synthesized rows and of each suite."""
        folders = {name: (self.suites / name, self.suite_features / name) for name in suites}
        return {ALIGNMENT: (self.voice, self.features)} | folders


def run(
    params: Params,
    synthesize: Path,
    voice: Path,
    features: Path,
    suites: Path,
    suite_features: Path,
    validation: Path,
    gate: Path,
    methods: Path,
    evaluation: Path,
    out: Path,
) -> None:
    """The page in `out`, of the test split.

    Raises:
        UserError: an input does not fit the others, as when a method was trained after the evaluation.
    """
    inputs = Inputs(
        synthesize, voice, features, suites, suite_features, validation, gate, methods, evaluation
    )
    results = load_results(inputs, params)
    page = render(results, params.report.num_examples)
    with publish(out) as folder:
        (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"report: {out / 'index.html'}, {len(page) / 2**20:.1f} MiB")


def load_results(inputs: Inputs, params: Params) -> Results:
    """What the page shows.

    Raises:
        UserError: `align.methods` are not those that were scored.
    """
    methods, suites = params.align.methods, list(params.evaluate.suites)
    scores = _json(inputs.evaluation / "scores.json")
    scored = [system for system in scores["systems"] if system not in REFERENCES]
    if methods != scored:
        raise UserError(
            f"align.methods are {methods}, but {inputs.evaluation} scored {scored}; run evaluate again"
        )
    sources = inputs.sources(suites)
    clips = accepted_clips(inputs.validation)
    answers = read_jsonl(inputs.evaluation / "answers.jsonl", Answer)
    return Results(
        rows={row.id: row for row in read_jsonl(inputs.synthesize / "rows.jsonl", Row)},
        clips={clip.id: clip for clip in clips},
        features=feature_table([features for _, features in sources.values()]),
        answers=[answer for answer in answers if answer.split == "test"],
        conditions=list(params.voice.conditions),
        scores=scores,
        synthesis=_json(inputs.synthesize / "report.json"),
        voice=_json(inputs.voice / "report.json"),
        measured=_json(inputs.features / "report.json"),
        suite_minutes={
            name: sum(_json(folder / "report.json")["minutes"] for folder in sources[name]) for name in suites
        },
        validation=_json(inputs.validation / "report.json"),
        gate=_json(inputs.gate / "gate.json"),
        training={method: _json(inputs.methods / method / "training.json") for method in scored},
        logs={method: _log(inputs.methods / method / "log.jsonl") for method in scored},
        recordings={clip.id: sources[clip.suite][0] / clip.path for clip in clips},
        data_docs=f"../validate/{DATA_DOCS}" if (inputs.validation / DATA_DOCS).exists() else None,
    )


def accepted_clips(validation: Path) -> list[Clip]:
    """The clips that this project makes: recordings of others may not be copied into a page."""
    clips = [clip for name in ACCEPTED for clip in read_jsonl(validation / name, Clip)]
    return [clip for clip in clips if clip.engine != RECORDED]


def feature_table(folders: list[Path]) -> dict[str, Feature]:
    """The features of all clips by clip id."""
    tables = [read_jsonl(folder / "table.jsonl", Feature) for folder in folders]
    return {feature.clip_id: feature for table in tables for feature in table}


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main(run)
