"""What a parameter of `align` says happens: one entry of a table for each of them, and none is left out."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import transformers
import yaml
from nested import merge
from pydantic import BaseModel
from safetensors.torch import load_file
from tests.alignment.test_rba import ROUNDING

from speech_rba.config import Align, load_params
from speech_rba.errors import UserError
from speech_rba.model import student as student_module
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.stages import align
from tests.stages.test_align import INPUTS, ROOT, write_inputs

STEPS = {method: {"max_steps": 1, "learning_rate": 1.0e-3} for method in ("sft", "kd", "opd", "dpo", "rba")}
RBA = {"warm_start_steps": 0, "temperature": 0.3, "num_generations": 4, "beta": 0.1, "kl_coef": 0.0}
WEIGHTS = {"teacher_pmi": 1.0, "teacher_similarity": 0.0, "length": 0.5, "repetition": 0.0, "bleu": 0.0, "chrf": 0.0,
           "instructions": 0.0}  # fmt: skip


@dataclass
class Trained:
    """What a training left, what it sampled and when it kept a checkpoint."""

    weights: dict
    log: list[dict]
    config: dict
    summary: dict
    asked: list[dict] = field(
        default_factory=list
    )  # number of prompts, settings and longest answer of each sampling
    kept: list[int] = field(default_factory=list)  # steps

    @property
    def moved(self) -> float:
        """By how much an entry of the adapter's B, 0 at first, has moved at most."""
        return max(w.abs().max().item() for name, w in self.weights.items() if "lora_B" in name)


@pytest.fixture(scope="module")
def train(small_student, hypotheses, questions, tmp_path_factory) -> Callable:
    """Trains a method with some values of `align` changed, once for each set of changes."""
    folder, done = tmp_path_factory.mktemp("parameters"), {}
    write_inputs(folder, small_student, hypotheses, questions)
    path, tower = folder / "params.yaml", small_student.audio_tower
    values = yaml.safe_load(path.read_text())
    values["align"] = merge(
        values["align"], STEPS | {"rba": STEPS["rba"] | RBA | {"reward_weights": WEIGHTS}}
    )
    values["align"]["methods"] = list(STEPS)
    values["synthesize"]["num_constrained"] = 1

    def train(method: str, **changes) -> Trained:
        changed = values | {"align": merge(values["align"], changes)}
        key = method + yaml.safe_dump(changed["align"])
        if key not in done:
            path.write_text(yaml.safe_dump(changed))
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setattr(student_module, "load_audio_tower", lambda *_: tower)
                patch.setattr(student_module, "load_tokenizer", lambda _: small_student.tokenizer)
                done[key] = observed(method, Path(f"out{len(done)}"), patch)
        return done[key]

    train.folder = folder
    return train


def observed(method: str, out: Path, patch: pytest.MonkeyPatch) -> Trained:
    asked, kept, answer, save = [], [], SpeechStudent.answer, transformers.Trainer._save_checkpoint

    def answers(student, prompts, **sampling):
        found = answer(student, prompts, **sampling)
        asked.append({"prompts": len(prompts), "longest": max(map(len, found)), **sampling})
        return found

    def checkpoint(trainer, *args):
        kept.append(trainer.state.global_step)
        return save(trainer, *args)

    patch.setattr(SpeechStudent, "answer", answers)
    patch.setattr(transformers.Trainer, "_save_checkpoint", checkpoint)
    align.run(load_params(), method, **INPUTS, out=out)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    read = [json.loads((out / name).read_text()) for name in ("adapter_config.json", "training.json")]
    return Trained(load_file(out / "adapter_model.safetensors"), log, *read, asked, kept)


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
    wanted = trained.summary["adapter_sha256"]
    summaries = train.folder.glob("out*/training.json")
    return next(p.parent for p in summaries if json.loads(p.read_text())["adapter_sha256"] == wanted)


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
    (asked,) = train("rba", per_device_train_batch_size=4).asked
    assert asked["prompts"] * asked["num_generations"] == 8


def max_completion_tokens(train):
    for method in ("opd", "dpo", "rba"):
        assert train(method).asked[0]["longest"] == 6
        assert train(method, max_completion_tokens=3).asked[0]["longest"] == 3


def save_steps(train):
    """And the last step is kept in any case."""
    assert train("sft", sft={"max_steps": 3}, save_steps=1).kept == [1, 2, 3]
    assert train("sft", sft={"max_steps": 3}, save_steps=2).kept == [2, 3]


def max_steps_of(method: str) -> Callable:
    def max_steps(train):
        for steps in (1, 2):
            trained = train(method, **{method: {"max_steps": steps}})
            assert [(row["phase"], row["step"]) for row in trained.log] == [
                (method, i + 1) for i in range(steps)
            ]
            assert trained.summary["num_steps"] == steps

    return max_steps


def learning_rate_of(method: str) -> Callable:
    def learning_rate(train):
        """Adam's first step is as long as it."""
        for rate in (1.0e-3, 2.0e-3):
            assert train(method, **{method: {"learning_rate": rate}}).moved == pytest.approx(rate, rel=0.01)

    return learning_rate


def dpo_beta(train):
    """The first margin is 0, whose loss is ln 2; the loss of the second differs."""
    losses = [
        [row["loss"] for row in train("dpo", dpo={"max_steps": 2, "beta": beta}).log] for beta in (0.1, 0.5)
    ]
    assert [first for first, _ in losses] == pytest.approx([math.log(2)] * 2, abs=1e-3)
    assert losses[0][1] != losses[1][1]


def rba_warm_start_steps(train):
    phases = [row["phase"] for row in train("rba", rba={"warm_start_steps": 2}).log]
    assert phases == ["sft", "sft", "rba"] and [row["phase"] for row in train("rba").log] == ["rba"]


def rba_num_generations(train):
    for size in (2, 4):
        (asked,) = train("rba", rba={"num_generations": size}).asked
        assert (asked["prompts"], asked["num_generations"]) == (4 // size, size)


def rba_temperature(train):
    cold, hot = (train("rba", rba={"temperature": t}) for t in (0.3, 2.0))
    assert [run.asked[0]["temperature"] for run in (cold, hot)] == [0.3, 2.0]
    assert cold.log[0]["entropy"] < hot.log[0]["entropy"]


def rba_beta(train):
    """The KL, which a warm start makes to be there, is part of the loss with this weight."""
    none, some, more = (
        train("rba", rba={"warm_start_steps": 1, "beta": beta}).log[1] for beta in (0.0, 0.1, 10.0)
    )
    assert "kl" not in none and some["kl"] == more["kl"] > 0
    assert more["loss"] - none["loss"] == pytest.approx(10.0 * more["kl"], rel=0.05)


def rba_dense_weight(train):
    plain, dense = (train("rba", rba={"kl_coef": weight}).log[0] for weight in (0.0, 0.5))
    assert "teacher_divergence" not in plain and dense["teacher_divergence"] > 0
    assert dense["loss"] - plain["loss"] == pytest.approx(0.5 * dense["teacher_divergence"], rel=0.01)


def reward_weight(name: str) -> Callable:
    """All weights differ, and so each reward that is not 0 shows its own in the sum; one at 0 is not computed."""

    def weight(train):
        weights = {other: 1.0 + i for i, other in enumerate(WEIGHTS)}
        logged = train("rba", max_completion_tokens=24, rba={"reward_weights": weights}).log[0]
        means = {other: logged[f"rewards/{other}/mean"] for other in weights}
        assert means[name] != 0
        assert logged["completions/repetition"] == pytest.approx(-means["repetition"])
        assert logged["reward"] == pytest.approx(
            sum(weights[other] * means[other] for other in weights), abs=1e-4
        )
        others = WEIGHTS | {name: 0.0, "length" if name != "length" else "chrf": 1.0}
        without = train("rba", rba={"reward_weights": others}).log[0]
        assert f"rewards/{name}/mean" not in without and 0 <= without["completions/repetition"] <= 1

    return weight


TABLE = {
    **{check.__name__: check for check in (methods, seed, start_from, lora_r, lora_alpha, lora_target_modules,
                                           per_device_train_batch_size, max_completion_tokens, save_steps)},
    **{f"{method}.max_steps": max_steps_of(method) for method in STEPS},
    **{f"{method}.learning_rate": learning_rate_of(method) for method in STEPS},
    "dpo.beta": dpo_beta,
    "rba.warm_start_steps": rba_warm_start_steps,
    "rba.num_generations": rba_num_generations,
    "rba.temperature": rba_temperature,
    "rba.beta": rba_beta,
    "rba.kl_coef": rba_dense_weight,
    **{f"rba.reward_weights.{name}": reward_weight(name) for name in WEIGHTS},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_it_does_what_it_says(train, name):
    TABLE[name](train)


def names(model: type[BaseModel], where: str = "") -> set[str]:
    found = set()
    for name, info in model.model_fields.items():
        kind = info.annotation
        group = isinstance(kind, type) and issubclass(kind, BaseModel)
        found |= names(kind, f"{where}{name}.") if group else {f"{where}{name}"}
    return found


def test_every_parameter_is_in_the_table():
    assert set(TABLE) == names(Align)


@pytest.mark.parametrize("method", ["opd", "dpo", "rba"])
def test_how_far_the_sampler_is_from_the_policy_is_logged(train, method):
    assert abs(train(method).log[0]["sampling/kl"]) < ROUNDING


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"methods": ["sft", "rba", "sft"]},
            "align.methods: .* repeated: sft; name each once",
        ),
        ({"methods": []}, "align.methods"),
        ({"seed": -1}, "align.seed"),
        ({"lora_target_modules": []}, "align.lora_target_modules"),
        ({"lora_target_modules": ["q_proj", "q_proj"]}, "repeated: q_proj"),
        ({"lora_alpha": 0}, "align.lora_alpha"),
        ({"save_steps": 0}, "align.save_steps"),
        ({"start_from": "#0123456789abcdef"}, "align.start_from: .* write FOLDER#HASH"),
        ({"sft": {"learning_rate": math.inf}}, "align.sft.learning_rate: .*finite"),
        ({"rba": {"learning_rate": math.nan}}, "align.rba.learning_rate: "),
        ({"dpo": {"beta": 0.0}}, "align.dpo.beta: "),
        ({"rba": {"temperature": 0.0}}, "align.rba.temperature: "),
        ({"rba": {"kl_coef": math.nan}}, "align.rba.kl_coef: "),
        ({"rba": {"reward_weights": {"chrf": math.nan}}}, "align.rba.reward_weights.chrf: .*finite"),
        (
            {"rba": {"reward_weights": dict.fromkeys(WEIGHTS, 0.0)}},
            "every weight is 0: set one above it",
        ),
        (
            {"rba": {"num_generations": 3}},
            "= 32 answers a step, .* = 3: set it to 2, 4, 8, 16, 32,",
        ),
        ({"sft": {"max_steps": 0}}, "align.sft.max_steps is 0, .* publish an unchanged student"),
        ({"rba": {"max_steps": 0}}, "align.rba.max_steps is 0"),
        (
            {"rba": {"reward_weights": {"instructions": 1.0}}},
            "synthesize.num_constrained is 0: set it above 0",
        ),
    ],
)
def test_what_could_not_happen_is_refused_with_its_reason(tmp_path, changes, reason):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge(values, {"align": changes})))
    with pytest.raises(UserError, match=reason):
        load_params(tmp_path / "params.yaml")


def test_what_belongs_to_a_method_that_is_not_trained_stops_nothing(tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    changes = {"methods": ["sft"], "rba": {"num_generations": 3, "max_steps": 0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge(values, {"align": changes})))
    assert load_params(tmp_path / "params.yaml").align.methods == ["sft"]
