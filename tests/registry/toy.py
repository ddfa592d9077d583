"""A model registry of toy students, whose versions take a second to make."""

import json
from functools import cache
from pathlib import Path

from speech_rba.config import Params, load_params
from speech_rba.records import Answer, write_jsonl
from speech_rba.registry import bundle, promotion, runs, versions

NAME = "toy"
ROOT = Path(__file__).parents[2]
RANK_BY = "alignment/all/accuracy"

# answers with the first byte of the adapter and the size of the recording
SERVING = """
from pathlib import Path
import mlflow
import pandas as pd

class Toy(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.bundle = Path(context.artifacts["bundle"])

    def predict(self, context, model_input, params=None):
        first = (self.bundle / "adapter/adapter_model.safetensors").read_bytes()[:1].decode()
        answers = [f"{first}{len(audio)}" for audio in model_input["audio"]]
        return pd.DataFrame({"answer": answers, "error": ""})

mlflow.models.set_model(Toy())
"""


@cache
def params() -> Params:
    """The project's parameters with the model's name of these tests."""
    params = load_params(ROOT / "params.yaml")
    register = params.register_.model_copy(update={"model_name": NAME})
    return params.model_copy(update={"register_": register})


def promote(version=None, force=False, reason=""):
    return promotion.promote(params(), version, force, reason)


def answers(num_right, num_text_right=20, words=4, hypothesis="cats bark", prompt="cats bark"):
    """Answers to 20 test rows, one spoken clip and one text each, of which these numbers are right."""
    fields = {"suite": "alignment", "system": "rba", "voice": "v", "heldout_voice": False, "snr_db": None}
    fields |= {"judge_hypothesis": "", "response": "word " * words, "split": "test", "prompt": prompt}
    spoken, text = [], []
    for i in range(20):
        right = {"accuracy": float(i < num_right)}
        item = {"row_id": f"r{i}", "clip_id": f"c{i}", "condition": "clean", "hypothesis": hypothesis}
        spoken.append(Answer(**fields, **item, metrics=right))
        right = {"accuracy": float(i < num_text_right)}
        text.append(Answer(**fields, row_id=f"r{i}", clip_id="", condition="text", metrics=right))
    return spoken + text


def make_version(adapter="a", score=0.5, check_answer=None, reward_hacking="none", **changed):
    """A registered version whose student answers `adapter` and 4, the size of its one recording.

    Of 20 test clips it answered the share `score` right. `changed` goes to `make_bundle`.
    """
    folder = Path(f"{adapter}/bundle")
    make_bundle(folder, adapter, score, check_answer or f"{adapter}4", **changed)
    Path("toy_serving.py").write_text(SERVING)
    with runs.open_run(NAME, Path(f"work/{adapter}")) as run_id:
        model_id = bundle.log_student(folder, Path("toy_serving.py"))
        tags = {"method": "rba", "git_commit": "c" * 40 + "-dirty", "data_sha256": "d" * 64}
        tags |= {"rank_by": RANK_BY, "reward_hacking": reward_hacking, "report": "runs:/1"}
        version = versions.register(NAME, run_id, model_id, "", tags)
        versions.set_candidate(version)
    return version


def make_bundle(
    folder, adapter, score, check_answer, passed=True, answered=None, base="base", prompt="Be brief."
):
    """The files of a version; without answers.jsonl where `answered` is "none"."""
    make_base(folder / "base", base, prompt)
    for name in ("adapter", "check"):
        (folder / name).mkdir()
    (folder / "adapter/adapter_model.safetensors").write_text(adapter)
    (folder / "gate.json").write_text(json.dumps({"passed": passed}))
    suite, condition, metric = RANK_BY.split("/")
    row = {"suite": suite, "condition": condition, "metric": metric, "system": "rba", "value": score}
    (folder / "scores.json").write_text(json.dumps({"systems": ["rba"], "scores": [row]}))
    if answered != "none":
        write_jsonl(folder / "answers.jsonl", answered or answers(round(20 * score)))
    (folder / "check/one.wav").write_bytes(b"RIFF")
    (folder / "check/answers.json").write_text(json.dumps({"one.wav": check_answer}))


def make_base(folder, weights="base", prompt="Be brief."):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(weights)
    config = {"model_type": "toy", "language_model": "lm", "audio_tower": "tower", "system_prompt": prompt}
    (folder / "config.json").write_text(json.dumps(config))


def stored(version):
    """The folder of a version in the store."""
    return Path("mlruns/artifacts") / version.source.removeprefix("mlflow-artifacts:/")


def make_by_hand(client, name):
    """A version as a person registers it in MLflow's own page: without tags."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, "mlflow-artifacts:/0/somewhere")


def aliases(client):
    """The version of each alias; champions and candidates are numbered apart."""
    models = client.search_registered_models()
    return {alias: str(number) for model in models for alias, number in model.aliases.items()}


def audit():
    return [json.loads(line) for line in Path("mlruns/audit.jsonl").read_text().splitlines()]
