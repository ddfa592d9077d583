"""Typed view of params.yaml, which alone holds values: a missing, unknown or mistyped key is an error."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from speech_rba.assets import sha256
from speech_rba.errors import UserError

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Range = Annotated[list[float], MinLen(2)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Assets(Group):
    speech_llm: str | None
    teacher: str
    language_model: str
    audio_tower: str
    embedder: str
    system_prompt: str
    target_language: Literal["Spanish", "German"] | None


class Synthesize(Group):
    seed: int
    num_instructions: Count
    num_questions: Count
    num_constrained: Count
    num_translations: Count
    test_share: Share
    temperature: Positive
    top_p: Share
    batch_size: PositiveInt
    max_query_tokens: PositiveInt
    max_completion_tokens: PositiveInt
    min_words: PositiveInt
    max_words: PositiveInt
    near_duplicate: Share
    min_round_trip: Share


class Voice(Group):
    seed: int
    num_workers: PositiveInt
    train_clips_per_row: PositiveInt
    max_suite_questions: Count
    heldout_voices: list[str]
    rate: Range
    pitch_semitones: Range
    level_db: Range
    snr_db: Range
    rt60_s: Range
    drive_db: Range
    cutoff_hz: Range
    lost_share: Range
    max_duration_s: Positive


class EarsTexts(Group):
    seed: int
    num_instructions: Count
    num_questions: Count


class Ears(Group):
    seed: int
    texts: EarsTexts
    max_steps: PositiveInt
    per_device_train_batch_size: PositiveInt
    learning_rate: Positive
    lora_r: PositiveInt
    distance_weight: Annotated[float, Ge(0)]
    kept_share: Share
    save_steps: PositiveInt
    rate: Range
    pitch_semitones: Range
    level_db: Range
    snr_db: Range
    rt60_s: Range
    drive_db: Range
    hesitant_share: Share
    mel_masks: Count
    mel_mask_bands: Annotated[int, Interval(ge=0, le=80)]
    time_masks_per_s: Annotated[float, Ge(0)]
    time_mask_s: Annotated[float, Ge(0)]


class Acoustics(Group):
    seed: int
    num_manner_clips: PositiveInt
    num_ordinary_clips: PositiveInt
    num_checked: PositiveInt
    max_steps: PositiveInt
    per_device_train_batch_size: PositiveInt
    learning_rate: Positive
    save_steps: PositiveInt


class Features(Group):
    batch_size: PositiveInt
    top_k: PositiveInt
    max_tokens: PositiveInt


class Validate(Group):
    max_wer_clean: Positive
    min_duration_s: Positive
    max_duration_s: Positive
    min_rms_db: float
    max_clipped_share: Share
    max_silence_share: Share
    leak_ngram: PositiveInt


class Gate(Group):
    max_quarantine_share: Share
    min_train_clips: Count


class Base(Group):
    trained_ears: bool
    trained_acoustics: bool
    top_k: PositiveInt
    temperature: Positive
    min_doubt: Annotated[float, Ge(0)]
    adapter_min_doubt: Annotated[float, Ge(0)]

    @model_validator(mode="after")
    def _doubt_needs_alternatives(self) -> "Base":
        if (self.min_doubt or self.adapter_min_doubt) and self.top_k == 1:
            raise ValueError(
                "with top_k 1 the student never doubts: set min_doubt and adapter_min_doubt to 0, or top_k to 2 or more"
            )
        return self


class Distillation(Group):
    max_steps: Count
    learning_rate: Positive


class Dpo(Distillation):
    beta: Positive


class RewardWeights(Group):
    teacher_pmi: float
    agreement: float
    length: float
    repetition: float
    bleu: float
    chrf: float
    instructions: float

    @model_validator(mode="after")
    def _something_counts(self) -> "RewardWeights":
        if not any(self.model_dump().values()):
            raise ValueError(
                "every weight is 0: set one above it, or take the method opd, which learns from the teacher's "
                "distribution without rewards"
            )
        return self


class Rba(Group):
    warm_start_steps: Count
    max_steps: Count
    learning_rate: Positive
    num_generations: Annotated[int, Ge(2)]
    temperature: Positive
    beta: Annotated[float, Ge(0)]
    dense_weight: Annotated[float, Ge(0)]
    reward_weights: RewardWeights


def _once(names: list[str]) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} stands there more than once: leave it once")
    return names


def _by_content(start_from: str) -> str:
    """FOLDER#HASH, so that an adapter counts by what it holds and not by where it is."""
    folder, _, digest = start_from.rpartition("#")
    if folder and re.fullmatch(r"[0-9a-f]{16}", digest):
        return start_from
    weights = Path(start_from) / "adapter_model.safetensors"
    write = f"{start_from}#{sha256(weights)[:16]}" if weights.exists() else (
        "FOLDER#HASH, HASH being the first 16 hex digits of the sha256 of FOLDER/adapter_model.safetensors"
    )  # fmt: skip
    raise ValueError(f"an adapter is named with its content: write {write}")


class Align(Group):
    """`max_completion_tokens` bounds the answers that opd, dpo and rba sample. The teacher's, which sft, kd and dpo
    learn from whole, are bounded by `synthesize.max_completion_tokens` alone."""

    methods: Annotated[list[Literal["sft", "kd", "opd", "dpo", "rba"]], MinLen(1), AfterValidator(_once)]
    seed: Annotated[int, Interval(ge=0, lt=2**32)]  # what numpy takes
    start_from: Annotated[str, AfterValidator(_by_content)] | None
    lora_r: PositiveInt
    lora_alpha: PositiveInt
    lora_target_modules: Annotated[list[str], MinLen(1), AfterValidator(_once)]
    per_device_train_batch_size: PositiveInt
    max_completion_tokens: PositiveInt
    save_steps: PositiveInt
    sft: Distillation
    kd: Distillation
    opd: Distillation
    dpo: Dpo
    rba: Rba

    @model_validator(mode="after")
    def _a_method_trains(self) -> "Align":
        for method in self.methods:
            if getattr(self, method).max_steps == 0 and not self.start_from:
                raise ValueError(
                    f"align.{method}.max_steps is 0, so it would publish the student as it is: set it above 0, take "
                    f"{method} out of align.methods, or name an adapter in align.start_from"
                )
        return self

    @model_validator(mode="after")
    def _groups_fill_a_batch(self) -> "Align":
        batch, group = 2 * self.per_device_train_batch_size, self.rba.num_generations
        if "rba" in self.methods and batch % group:
            allowed = [str(n) for n in range(2, batch + 1) if batch % n == 0]
            raise ValueError(
                f"rba samples 2 * align.per_device_train_batch_size = {batch} answers a step, which groups of "
                f"align.rba.num_generations = {group} do not fill: set it to {', '.join(allowed)}, or change the batch"
            )
        return self


class Alarms(Group):
    max_length_drift: Annotated[float, Ge(1)]
    max_repetition: Share
    max_cut_off_rise: Share
    max_no_spread: Share
    max_kl: Positive


class Evaluate(Group):
    batch_size: PositiveInt
    max_completion_tokens: PositiveInt
    num_bootstrap: PositiveInt
    seed: int
    conditions_per_recording: Count
    alarms: Alarms
    suites: list[str]


class Report(Group):
    num_examples: PositiveInt


class Register(Group):
    model_name: str
    rank_by: str
    num_check_clips: PositiveInt


class Params(Group):
    assets: Assets
    synthesize: Synthesize
    voice: Voice
    ears: Ears
    acoustics: Acoustics
    features: Features
    validate_: Annotated[Validate, Field(alias="validate")]  # BaseModel owns the plain names
    gate: Gate
    base: Base
    align: Align
    evaluate: Evaluate
    report: Report
    register_: Annotated[Register, Field(alias="register")]

    @model_validator(mode="after")
    def _ranked_by_what_is_scored(self) -> "Params":
        suites = ["alignment", *(Path(suite).name for suite in self.evaluate.suites)]
        suite, *rest = self.register_.rank_by.split("/")
        if suite not in suites or len(rest) != 2:
            raise ValueError(
                f"set register.rank_by to suite/condition/metric with a suite of {', '.join(suites)}; "
                f"it is {self.register_.rank_by!r}"
            )
        return self

    @model_validator(mode="after")
    def _texts_of_their_own(self) -> "Params":
        if self.ears.texts.seed == self.synthesize.seed:
            raise ValueError(
                "synthesize.seed is the seed of the ears' texts (ears.texts.seed): the student would know its "
                "training texts by heart; take another"
            )
        return self

    @model_validator(mode="after")
    def _the_teacher_judges(self) -> "Params":
        own = self.assets.speech_llm or self.assets.language_model
        if self.align.rba.reward_weights.teacher_pmi and self.assets.teacher != own:
            raise ValueError(
                "the reward teacher_pmi is computed by the student's own language model, which assets.teacher is not: "
                "set align.rba.reward_weights.teacher_pmi to 0"
            )
        return self

    @model_validator(mode="after")
    def _instructions_are_given(self) -> "Params":
        rewarded = "rba" in self.align.methods and self.align.rba.reward_weights.instructions
        if rewarded and not self.synthesize.num_constrained:
            raise ValueError(
                "the reward instructions pays for what a constrained prompt asks, and synthesize.num_constrained is 0: "
                "set it above 0, or align.rba.reward_weights.instructions to 0"
            )
        return self

    @model_validator(mode="after")
    def _translations_or_answers(self) -> "Params":
        wanted, texts = self.assets.target_language, self.synthesize
        others = texts.num_instructions or texts.num_questions or texts.num_constrained
        if wanted and (others or not texts.num_translations):
            raise ValueError(
                f"with assets.target_language, {wanted}, only translations can be written: set "
                "synthesize.num_instructions, num_questions and num_constrained to 0 and num_translations above it"
            )
        if texts.num_translations and not wanted:
            raise ValueError("synthesize.num_translations needs assets.target_language: set it, or the number to 0")
        if wanted and (self.assets.speech_llm or self.base.trained_acoustics):
            raise ValueError(
                "assets.target_language is for the student of soft tokens, and the acoustics were trained to answer: "
                "set assets.speech_llm to null and base.trained_acoustics to false"
            )
        return self

    @model_validator(mode="after")
    def _a_speech_llm_has_its_own_ears(self) -> "Params":
        base = self.base
        ours = base.trained_ears or base.trained_acoustics or base.min_doubt or base.adapter_min_doubt
        if self.assets.speech_llm and ours:
            raise ValueError(
                "assets.speech_llm hears by itself and names no doubt: set base.trained_ears and trained_acoustics "
                "to false, and base.min_doubt and adapter_min_doubt to 0"
            )
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """The values of `path`, checked.

    Raises:
        UserError: the file is missing, is no YAML, or a key is unknown, missing or mistyped.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: run from the project's top folder")
    try:
        return Params.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_wrong, error.errors()))}") from error


def _wrong(error: dict) -> str:
    if not error["loc"]:  # the values do not fit each other
        return error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']} (got {error['input']!r})"


def merge(values: dict, changes: dict, where: str = "") -> dict:
    """`values` with the leaves of `changes` in place of its own.

    Raises:
        UserError: `changes` names a key that `values` lacks.
    """
    if unknown := set(changes) - set(values):
        raise UserError(f"unknown parameter {where}{min(unknown)}; allowed here: {', '.join(values)}")
    nested = {k: merge(values[k], v, f"{where}{k}.") if isinstance(v, dict) else v for k, v in changes.items()}
    return values | nested


def apply_overlay(overlay: Path, path: Path = Path("params.yaml")) -> None:
    """Rewrites `path` with the values that `overlay` changes; the result is checked first."""
    merged = merge(yaml.safe_load(path.read_text()), yaml.safe_load(overlay.read_text()))
    Params.model_validate(merged)
    path.write_text(yaml.safe_dump(merged, sort_keys=False))


if __name__ == "__main__":
    apply_overlay(Path(sys.argv[1]))
