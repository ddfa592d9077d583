"""Typed view of params.yaml, which alone holds values: a missing, unknown or mistyped key is an error."""

import os
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Interval, Len, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speech_rba.assets.resolve import HUB_ID, sha256
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, Condition

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]


def _ordered(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound comes first: write [{bounds[1]}, {bounds[0]}]")
    return bounds


Range = Annotated[list[float], Len(2, 2), AfterValidator(_ordered)]


def _suite_name(name: str) -> str:
    """A part of folders, clip ids and metric names: `-` and `/` separate there, and one letter begins a row's id."""
    if name == "alignment" or not re.fullmatch(r"[a-z][a-z0-9_]+", name):
        raise ValueError("name a suite with two or more small letters, digits and _, and not alignment")
    return name


SuiteName = Annotated[str, AfterValidator(_suite_name)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _asset(name: str) -> str:
    """A package or a folder names its content; a repository of the hub does with a revision."""
    folder = Path(name).expanduser()
    if not name.startswith("pypi:") and not folder.is_dir() and not HUB_ID.fullmatch(name):
        raise ValueError(
            "name a pinned package as pypi:PACKAGE, a folder that is there, or OWNER/NAME@REVISION"
        )
    return name


Asset = Annotated[str, AfterValidator(_asset)]


class Assets(Group):
    speech_llm: Asset | None
    teacher: Asset
    language_model: Asset
    audio_tower: Asset
    embedder: Asset
    system_prompt: str
    target_language: Literal["Spanish", "German"] | None


class Synthesize(Group):
    seed: int
    num_instructions: Count
    num_questions: Count
    num_constrained: Count
    num_translations: Count
    validation_share: Share
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
    train_clips_per_row: PositiveInt
    heldout_voices: list[str]
    validation_voices: list[str]
    rate: Range
    pitch_semitones: Range
    level_db: Range
    snr_db: Range
    rt60_s: Range
    drive_db: Range
    cutoff_hz: Range
    lost_share: Range
    max_duration_s: Positive


class AsrAdapterTexts(Group):
    seed: int
    num_instructions: Count
    num_questions: Count


class AsrAdapter(Group):
    seed: int
    texts: AsrAdapterTexts
    max_steps: PositiveInt
    per_device_train_batch_size: PositiveInt
    learning_rate: Positive
    lora_r: PositiveInt
    distance_weight: Annotated[float, Ge(0)]
    weight_interpolation: Share
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


class Attributes(Group):
    seed: int
    num_attribute_clips: PositiveInt
    num_ordinary_clips: PositiveInt
    num_checked: PositiveInt
    max_steps: PositiveInt
    per_device_train_batch_size: PositiveInt
    learning_rate: Positive
    save_steps: PositiveInt


class Suite(Group):
    max_questions: PositiveInt
    validation_share: Share
    conditions_per_recording: Count
    seed: int


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
    asr_adapter: bool
    attributes: bool
    top_k: PositiveInt
    temperature: Positive
    min_asr_uncertainty: Annotated[float, Ge(0)]
    adapter_min_asr_uncertainty: Annotated[float, Ge(0)]
    max_transcript_tokens: PositiveInt
    max_completion_tokens: PositiveInt

    @model_validator(mode="after")
    def _uncertainty_needs_alternatives(self) -> "Base":
        if (self.min_asr_uncertainty or self.adapter_min_asr_uncertainty) and self.top_k == 1:
            raise ValueError(
                "with top_k 1 the student never is_uncertain: set min_asr_uncertainty and adapter_min_asr_uncertainty to 0, or top_k to 2 or more"
            )
        return self


class Distillation(Group):
    max_steps: Count
    learning_rate: Positive


class Dpo(Distillation):
    beta: Positive


class RewardWeights(Group):
    teacher_pmi: float
    teacher_similarity: float
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
    kl_coef: Annotated[float, Ge(0)]
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


class RewardHacking(Group):
    max_length_drift: Annotated[float, Ge(1)]
    max_repetition: Share
    max_cut_off_rise: Share
    max_no_spread: Share
    max_kl: Positive


class Evaluate(Group):
    num_bootstrap: PositiveInt
    seed: int
    reward_hacking: RewardHacking
    suites: Annotated[dict[SuiteName, str], MinLen(1)]


class Report(Group):
    num_examples: PositiveInt


class Limits(Group):
    min_common_rows: PositiveInt
    max_text_drop: Annotated[float, Ge(0)]
    max_refusal_drop: Share
    max_length_ratio: Annotated[float, Ge(1)]
    max_wer_rise: Annotated[float, Ge(0)]


# the metrics of which more is better: of synthesized rows, and of suites by the kind of their questions
ALIGNMENT_METRICS = ("token_f1", "teacher_similarity", "teacher_logp", "teacher_pmi", "prompt_retrieval_mrr")
SUITE_METRICS = ("accuracy", "refused", "followed", "followed_loosely", "chrf", "teacher_pmi")


class Register(Group):
    # MLflow takes no "/" or ":" and 256 characters, "-candidates" among them; a quote ends its filters
    model_name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
    rank_by: str
    num_check_clips: PositiveInt
    limits: Limits


class Params(Group):
    assets: Assets
    synthesize: Synthesize
    voice: Voice
    asr_adapter: AsrAdapter
    attributes: Attributes
    suite: Suite
    validate_: Annotated[Validate, Field(alias="validate")]  # BaseModel owns the plain names
    gate: Gate
    base: Base
    align: Align
    evaluate: Evaluate
    report: Report
    register_: Annotated[Register, Field(alias="register")]

    @model_validator(mode="after")
    def _ranked_by_what_is_scored(self) -> "Params":
        rank_by, suites = self.register_.rank_by, [ALIGNMENT, *self.evaluate.suites]
        suite, *rest = rank_by.split("/")
        if suite not in suites or len(rest) != 2:
            raise ValueError(
                f"set register.rank_by to suite/condition/metric with a suite of {', '.join(suites)}; it is "
                f"{rank_by!r}"
            )
        metrics = ALIGNMENT_METRICS if suite == ALIGNMENT else SUITE_METRICS
        for what, given, known in (
            ("condition", rest[0], ("all", "degraded", *get_args(Condition))),
            (f"metric of {suite}", rest[1], metrics),
        ):
            if given not in known:
                raise ValueError(
                    f"register.rank_by is {rank_by!r}: set its {what} to one of {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _most_rows_are_learned_from(self) -> "Params":
        held_out = self.synthesize.validation_share + self.synthesize.test_share
        if held_out > 0.6:
            raise ValueError(
                f"synthesize.validation_share and test_share are {held_out:g} together, and most rows are to be "
                "learned from: lower them to at most 0.6"
            )
        return self

    @model_validator(mode="after")
    def _clips_to_check_with(self) -> "Params":
        texts = self.synthesize
        rows = texts.num_instructions + texts.num_questions + texts.num_constrained + texts.num_translations
        if self.register_.num_check_clips > (expected := int(rows * texts.test_share)):
            raise ValueError(
                f"register.num_check_clips is {self.register_.num_check_clips}, and {rows} rows with "
                f"synthesize.test_share {texts.test_share} give {expected} test rows: lower it to that"
            )
        return self

    @model_validator(mode="after")
    def _texts_of_their_own(self) -> "Params":
        if self.asr_adapter.texts.seed == self.synthesize.seed:
            raise ValueError(
                "synthesize.seed is the seed of the asr_adapter' texts (asr_adapter.texts.seed): the student would know its "
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
            raise ValueError(
                "synthesize.num_translations needs assets.target_language: set it, or the number to 0"
            )
        if wanted and (self.assets.speech_llm or self.base.attributes):
            raise ValueError(
                "assets.target_language is for the student of soft tokens, and the attribute head was trained to answer: "
                "set assets.speech_llm to null and base.attributes to false"
            )
        return self

    @model_validator(mode="after")
    def _a_speech_llm_transcribes_by_itself(self) -> "Params":
        base = self.base
        ours = (
            base.asr_adapter
            or base.attributes
            or base.min_asr_uncertainty
            or base.adapter_min_asr_uncertainty
        )
        if self.assets.speech_llm and ours:
            raise ValueError(
                "assets.speech_llm hears by itself and names no asr_uncertainty: set base.asr_adapter and attributes "
                "to false, and base.min_asr_uncertainty and adapter_min_asr_uncertainty to 0"
            )
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """The values of `path`, checked.

    Raises:
        UserError: the file is missing, is no YAML, or a key is unknown, missing, mistyped or there twice.
    """
    return _checked(_read(path), path)


def read_yaml(path: Path) -> dict:
    """The values of a YAML 1.2 file, as DVC reads and writes it: 2e-05 is a number there, to YAML 1.1 a text.

    Raises:
        UserError: the file is missing, is no YAML, no mapping, or names a key twice.
    """
    return _parsed(_read(path), path)


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"{path} is missing: run from the project's top folder")
    return path.read_bytes()


def _parsed(text: bytes, path: Path) -> dict:
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, UnicodeError) as error:
        what = " ".join(str(error).partition("To suppress this check")[0].split())
        raise UserError(f"{path} is no valid YAML: {what}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is no mapping of groups to values: it holds {values!r:.100}")
    return values


def _checked(text: bytes, path: Path) -> Params:
    try:
        return Params.model_validate(_parsed(text, path))
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_wrong, error.errors()))}") from error


def _wrong(error: dict) -> str:
    if not error["loc"]:  # the values do not fit each other
        return error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']} (got {error['input']!r})"


def change_params(path: Path, changes: dict[str, object]) -> None:
    """`path` has these values, by dotted name; its comments, order and other values are as before.

    The result is checked before it replaces the file, whole.

    Raises:
        UserError: a name is unknown, or the changed values are not valid; the file is as it was.
    """
    before, yaml = _read(path), _editor()
    _parsed(before, path)  # for its message
    values = yaml.load(before)
    for name, value in changes.items():
        *groups, key = name.split(".")
        group = values
        for part in groups:
            group = _within(group, part, name)
        _within(group, key, name)
        group[key] = value
    text = BytesIO()
    yaml.dump(values, text)
    _checked(text.getvalue(), path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(text.getvalue())
    os.replace(partial, path)


def _within(group: object, key: str, name: str) -> object:
    if not isinstance(group, dict) or key not in group:
        allowed = ", ".join(map(str, group)) if isinstance(group, dict) else f"none, {group!r} is a value"
        raise UserError(f"unknown parameter {name}; allowed here: {allowed}")
    return group[key]


def _editor() -> YAML:
    """What reads and writes a file and keeps its comments, its quotes, its long lines and the word null."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    null = "tag:yaml.org,2002:null"
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar(null, "null"))
    return yaml


def leaves(changes: dict, group: type[Group] = Params, where: str = "") -> dict[str, object]:
    """The values of an overlay by dotted name; a mapping that is no group of parameters is one value."""
    within = {field.alias or name: field.annotation for name, field in group.model_fields.items()}
    flat = {}
    for key, value in changes.items():
        inner = within.get(key)
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Group):
            flat |= leaves(value, inner, f"{where}{key}.")
        else:
            flat[f"{where}{key}"] = value
    return flat


def apply_overlay(overlay: Path, path: Path = Path("params.yaml")) -> None:
    """`path` has the values that `overlay` names; the result is checked first."""
    change_params(path, leaves(read_yaml(overlay)))


if __name__ == "__main__":
    try:
        apply_overlay(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
