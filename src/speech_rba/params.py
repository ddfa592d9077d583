"""Typed view of params.yaml, which alone holds values: a missing, unknown or mistyped key is an error."""

import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speech_rba.errors import UserError

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Range = Annotated[list[float], MinLen(2)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class Rba(Group):
    warm_start_steps: Count
    max_steps: Count
    learning_rate: Positive
    num_generations: Annotated[int, Ge(2)]
    temperature: Positive
    beta: Annotated[float, Ge(0)]
    dense_weight: Annotated[float, Ge(0)]
    reward_weights: RewardWeights


class Align(Group):
    methods: Annotated[list[Literal["sft", "kd", "opd", "dpo", "rba"]], MinLen(1)]
    seed: int
    start_from: str | None
    lora_r: PositiveInt
    lora_alpha: PositiveInt
    lora_target_modules: list[str]
    per_device_train_batch_size: PositiveInt
    max_completion_tokens: PositiveInt
    save_steps: PositiveInt
    sft: Distillation
    kd: Distillation
    opd: Distillation
    dpo: Dpo
    rba: Rba


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
