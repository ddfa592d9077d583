"""Every parameter of `align` has its effect: a table with one check for each of them, and none is left
out."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import transformers
import yaml
from pydantic import BaseModel
from safetensors.torch import load_file

from speech_rba.config import Align, load_params
from speech_rba.errors import UserError
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.stages import align
from tests.align_inputs import INPUTS, ROOT, reuse_loaded_parts, write_inputs
from tests.alignment.test_rba import ROUNDING
from tests.nested import merge

STEPS = {method: {"max_steps": 1, "learning_rate": 1.0e-3} for method in ("sft", "kd", "opd", "dpo", "rba")}
RBA = {"warm_start_steps": 0, "temperature": 0.3, "num_generations": 4, "beta": 0.1, "kl_coef": 0.0}
WEIGHTS = {
    "teacher_pmi": 1.0,
    "teacher_similarity": 0.0,
    "length": 0.5,
    "repetition": 0.0,
    "bleu": 0.0,
    "chrf": 0.0,
    "instructions": 0.0,
}


@dataclass
class Trained:
    """What a training left, what it sampled and when it kept a checkpoint."""

    weights: dict
    log: list[dict]
    config: dict
    summary: dict
    samplings: list[dict]  # number of prompts, settings and longest answer of each sampling
    checkpoints: list[int]  # their steps

    @property
    def largest_update(self) -> float:
        """The largest entry of the adapter's B, which starts at 0."""
        return max(w.abs().max().item() for name, w in self.weights.items() if "lora_B" in name)


@pytest.fixture(scope="module")
def train(small_student, hypotheses, questions, tmp_path_factory) -> Callable[..., Trained]:
    """Trains a method with some values of `align` changed, once for each set of changes."""
    folder = tmp_path_factory.mktemp("parameters")
    write_inputs(folder, small_student, hypotheses, questions)
    values = short_values(folder / "params.yaml")
    trainings: dict[str, Trained] = {}

    def train(method: str, **changes) -> Trained:
        changed = values | {"align": merge(values["align"], changes)}
        key = method + yaml.safe_dump(changed["align"])
        if key not in trainings:
            (folder / "params.yaml").write_text(yaml.safe_dump(changed))
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.chdir(folder)
                reuse_loaded_parts(monkeypatch, small_student)
                trainings[key] = observe(method, Path(f"out{len(trainings)}"), monkeypatch)
        return trainings[key]

    train.folder = folder
    return train


def short_values(path: Path) -> dict:
    """The values of `path` with one step for each method."""
    values = yaml.safe_load(path.read_text())
    rba = STEPS["rba"] | RBA | {"reward_weights": WEIGHTS}
    values["align"] = merge(values["align"], STEPS | {"rba": rba})
    values["align"]["methods"] = list(STEPS)
    values["synthesize"]["num_constrained"] = 1
    return values


def observe(method: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Runs the align stage and notes its samplings and checkpoints."""
    samplings, checkpoints = [], []
    answer, save = SpeechStudent.answer, transformers.Trainer._save_checkpoint

    def noted_answer(student, prompts, **sampling):
        answers = answer(student, prompts, **sampling)
        samplings.append({"prompts": len(prompts), "longest": max(map(len, answers)), **sampling})
        return answers

    def noted_save(trainer, *args):
        checkpoints.append(trainer.state.global_step)
        return save(trainer, *args)

    monkeypatch.setattr(SpeechStudent, "answer", noted_answer)
    monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", noted_save)
    align.run(load_params(), method, **INPUTS, out=out)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    config, summary = (
        json.loads((out / name).read_text()) for name in ("adapter_config.json", "training.json")
    )
    return Trained(load_file(out / "adapter_model.safetensors"), log, config, summary, samplings, checkpoints)


def methods(train):
    with pytest.raises(UserError, match=r"no method 'kd' in align.methods, \['sft'\]: add it there"):
        train("kd", methods=["sft"])
    assert train("sft").log[0]["phase"] == "sft" and train("kd").log[0]["phase"] == "kd"


def seed(train):
    first, other = train("sft").weights, train("sft", seed=1).weights
    assert any((first[name] != other[name]).any() for name in first if "lora_A" in name)


def start_from(train):
    """A second training of no steps is the first one."""
    first = train("sft")
    digest = first.summary["adapter_sha256"][:16]
    again = train("sft", start_from=f"{folder_of(train, first)}#{digest}", sft={"max_steps": 0})
    assert again.summary["adapter_sha256"][:16] == digest and not again.log


def folder_of(train, trained: Trained) -> Path:
    digest = trained.summary["adapter_sha256"]
    summaries = train.folder.glob("out*/training.json")
    return next(p.parent for p in summaries if json.loads(p.read_text())["adapter_sha256"] == digest)


def lora_r(train):
    assert {w.shape[0] for name, w in train("sft").weights.items() if "lora_A" in name} == {2}
    assert {w.shape[0] for name, w in train("sft", lora_r=3).weights.items() if "lora_A" in name} == {3}


def lora_alpha(train):
    """The first step is the same; then twice the alpha changes answers by more."""
    plain, more = (train("sft", sft={"max_steps": 2}, lora_alpha=alpha) for alpha in (32, 64))
    assert plain.log[0]["loss"] == more.log[0]["loss"] and plain.log[1]["loss"] != more.log[1]["loss"]
    assert (plain.config["lora_alpha"], more.config["lora_alpha"]) == (32, 64)


def lora_target_modules(train):
    names = train("sft", lora_target_modules=["q_proj"]).weights
    assert all("q_proj" in name or "multi_modal_projector" in name for name in names)
    assert any("down_proj" in name for name in train("sft").weights)


def per_device_train_batch_size(train):
    """Of answers; reinforcement takes twice as many, in groups."""
    assert [train("sft", per_device_train_batch_size=n).summary["num_samples"] for n in (2, 4)] == [2, 4]
    (sampling,) = train("rba", per_device_train_batch_size=4).samplings
    assert sampling["prompts"] * sampling["num_generations"] == 8


def max_completion_tokens(train):
    for method in ("opd", "dpo", "rba"):
        assert train(method).samplings[0]["longest"] == 6
        assert train(method, max_completion_tokens=3).samplings[0]["longest"] == 3


def save_steps(train):
    """The last step is kept in any case."""
    assert train("sft", sft={"max_steps": 3}, save_steps=1).checkpoints == [1, 2, 3]
    assert train("sft", sft={"max_steps": 3}, save_steps=2).checkpoints == [2, 3]


def max_steps_of(method: str) -> Callable:
    def max_steps(train):
        for steps in (1, 2):
            trained = train(method, **{method: {"max_steps": steps}})
            rows = [(row["phase"], row["step"]) for row in trained.log]
            assert rows == [(method, step + 1) for step in range(steps)]
            assert trained.summary["num_steps"] == steps

    return max_steps


def learning_rate_of(method: str) -> Callable:
    def learning_rate(train):
        """Adam's first step is as long as it."""
        for rate in (1.0e-3, 2.0e-3):
            trained = train(method, **{method: {"learning_rate": rate}})
            assert trained.largest_update == pytest.approx(rate, rel=0.01)

    return learning_rate


def dpo_beta(train):
    """The first margin is 0, whose loss is ln 2; the loss of the second differs."""
    runs = [train("dpo", dpo={"max_steps": 2, "beta": beta}) for beta in (0.1, 0.5)]
    losses = [[row["loss"] for row in run.log] for run in runs]
    assert [first for first, _ in losses] == pytest.approx([math.log(2)] * 2, abs=1e-3)
    assert losses[0][1] != losses[1][1]


def rba_warm_start_steps(train):
    phases = [row["phase"] for row in train("rba", rba={"warm_start_steps": 2}).log]
    assert phases == ["sft", "sft", "rba"] and [row["phase"] for row in train("rba").log] == ["rba"]


def rba_num_generations(train):
    for size in (2, 4):
        (sampling,) = train("rba", rba={"num_generations": size}).samplings
        assert (sampling["prompts"], sampling["num_generations"]) == (4 // size, size)


def rba_temperature(train):
    cold, hot = (train("rba", rba={"temperature": t}) for t in (0.3, 2.0))
    assert [run.samplings[0]["temperature"] for run in (cold, hot)] == [0.3, 2.0]
    assert cold.log[0]["entropy"] < hot.log[0]["entropy"]


def rba_beta(train):
    """The KL, which a warm start makes positive, is part of the loss with this weight."""
    none, small, large = (
        train("rba", rba={"warm_start_steps": 1, "beta": beta}).log[1] for beta in (0.0, 0.1, 10.0)
    )
    assert "kl" not in none and small["kl"] == large["kl"] > 0
    assert large["loss"] - none["loss"] == pytest.approx(10.0 * large["kl"], rel=0.05)


def rba_kl_coef(train):
    plain, dense = (train("rba", rba={"kl_coef": weight}).log[0] for weight in (0.0, 0.5))
    assert "teacher_divergence" not in plain and dense["teacher_divergence"] > 0
    assert dense["loss"] - plain["loss"] == pytest.approx(0.5 * dense["teacher_divergence"], rel=0.01)


def reward_weight(name: str) -> Callable:
    """All weights differ, so the sum shows the weight of each reward that is not 0; one at 0 is not
    computed."""

    def weight(train):
        weights = {other: 1.0 + place for place, other in enumerate(WEIGHTS)}
        logged = train("rba", max_completion_tokens=24, rba={"reward_weights": weights}).log[0]
        means = {other: logged[f"rewards/{other}/mean"] for other in weights}
        expected = sum(weights[other] * means[other] for other in weights)
        assert means[name] != 0 and logged["reward"] == pytest.approx(expected, abs=1e-4)
        assert logged["completions/repetition"] == pytest.approx(-means["repetition"])
        others = dict.fromkeys(WEIGHTS, 0.0) | ({"chrf": 1.0} if name == "length" else {"length": 1.0})
        without = train("rba", rba={"reward_weights": others}).log[0]
        assert f"rewards/{name}/mean" not in without and 0 <= without["completions/repetition"] <= 1

    return weight


TABLE = {
    "methods": methods,
    "seed": seed,
    "start_from": start_from,
    "lora_r": lora_r,
    "lora_alpha": lora_alpha,
    "lora_target_modules": lora_target_modules,
    "per_device_train_batch_size": per_device_train_batch_size,
    "max_completion_tokens": max_completion_tokens,
    "save_steps": save_steps,
    **{f"{method}.max_steps": max_steps_of(method) for method in STEPS},
    **{f"{method}.learning_rate": learning_rate_of(method) for method in STEPS},
    "dpo.beta": dpo_beta,
    "rba.warm_start_steps": rba_warm_start_steps,
    "rba.num_generations": rba_num_generations,
    "rba.temperature": rba_temperature,
    "rba.beta": rba_beta,
    "rba.kl_coef": rba_kl_coef,
    **{f"rba.reward_weights.{name}": reward_weight(name) for name in WEIGHTS},
}


@pytest.mark.parametrize("name", TABLE)
def test_a_parameter_has_its_effect(train, name):
    TABLE[name](train)


def names(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The dotted names of all values of a group of parameters."""
    leaves = set()
    for name, info in model.model_fields.items():
        kind = info.annotation
        is_group = isinstance(kind, type) and issubclass(kind, BaseModel)
        leaves |= names(kind, f"{prefix}{name}.") if is_group else {f"{prefix}{name}"}
    return leaves


def test_every_parameter_is_in_the_table():
    assert set(TABLE) == names(Align)


@pytest.mark.parametrize("method", ["opd", "dpo", "rba"])
def test_the_divergence_of_sampler_and_policy_is_logged(train, method):
    assert abs(train(method).log[0]["sampling/kl"]) < ROUNDING


REFUSED = [
    ({"methods": ["sft", "rba", "sft"]}, "align.methods: .*sft"),
    ({"methods": []}, "align.methods"),
    ({"seed": -1}, "align.seed"),
    ({"lora_target_modules": []}, "align.lora_target_modules"),
    ({"lora_target_modules": ["q_proj", "q_proj"]}, "align.lora_target_modules: .*q_proj"),
    ({"lora_alpha": 0}, "align.lora_alpha"),
    ({"save_steps": 0}, "align.save_steps"),
    ({"start_from": "#0123456789abcdef"}, "align.start_from: .* write FOLDER#HASH"),
    ({"sft": {"learning_rate": math.inf}}, "align.sft.learning_rate: .*finite"),
    ({"rba": {"learning_rate": math.nan}}, "align.rba.learning_rate: "),
    ({"dpo": {"beta": 0.0}}, "align.dpo.beta: "),
    ({"rba": {"temperature": 0.0}}, "align.rba.temperature: "),
    ({"rba": {"kl_coef": math.nan}}, "align.rba.kl_coef: "),
    ({"rba": {"reward_weights": {"chrf": math.nan}}}, "align.rba.reward_weights.chrf: .*finite"),
    ({"rba": {"reward_weights": dict.fromkeys(WEIGHTS, 0.0)}}, "every weight is 0"),
    ({"rba": {"num_generations": 3}}, "= 32 answers a step, .* = 3: set it to 2, 4, 8, 16, 32"),
    ({"sft": {"max_steps": 0}}, "align.sft.max_steps is 0"),
    ({"rba": {"max_steps": 0}}, "align.rba.max_steps is 0"),
    ({"rba": {"reward_weights": {"instructions": 1.0}}}, "synthesize.num_constrained is 0: set it above 0"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_values_that_cannot_work_are_refused_with_the_reason(tmp_path, changes, reason):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge(values, {"align": changes})))
    with pytest.raises(UserError, match=reason):
        load_params(tmp_path / "params.yaml")


def test_values_of_a_method_that_is_not_trained_are_not_checked(tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    changes = {"methods": ["sft"], "rba": {"num_generations": 3, "max_steps": 0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge(values, {"align": changes})))
    assert load_params(tmp_path / "params.yaml").align.methods == ["sft"]
