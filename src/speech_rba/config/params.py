"""The groups of params.yaml: one for each stage that has something to set, and `assets`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le, Len, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from speech_rba.assets.resolve import HUB_ID, sha256
from speech_rba.config.checks import CHECKS

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]


def _ordered(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"put the lower bound first: [{bounds[1]}, {bounds[0]}]")
    return bounds


Range = Annotated[list[float], Len(2, 2), AfterValidator(_ordered)]


def _suite_name(name: str) -> str:
    """`name`, which becomes a part of folders, clip ids and metric names.

    `-` and `/` separate parts there, and ids of synthesized rows begin with a single letter.
    """
    if name == "alignment" or not re.fullmatch(r"[a-z][a-z0-9_]+", name):
        raise ValueError("name a suite with two or more lower-case letters, digits and _, and not alignment")
    return name


SuiteName = Annotated[str, AfterValidator(_suite_name)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _asset(name: str) -> str:
    """`name`, which must fix its content: a pinned package, a folder, or a hub repository with a revision."""
    folder = Path(name).expanduser()
    if not name.startswith("pypi:") and not folder.is_dir() and not HUB_ID.fullmatch(name):
        raise ValueError("name a pinned package as pypi:PACKAGE, an existing folder, or OWNER/NAME@REVISION")
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


def _file_by_content(feedback: str) -> str:
    """FILE#HASH: the hash identifies a file by its content."""
    name, _, digest = feedback.rpartition("#")
    if name and re.fullmatch(r"[0-9a-f]{16}", digest):
        return feedback
    if Path(feedback).is_file():
        raise ValueError(f"name the file with its content: write {feedback}#{sha256(Path(feedback))[:16]}")
    raise ValueError("name the file with its content: write FILE#HASH, the first 16 hex digits of its sha256")


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
    feedback: Annotated[str, AfterValidator(_file_by_content)] | None


Gender = Literal["woman", "man"]
Accent = Literal["American", "British", "Scottish", "Irish", "Caribbean", "Australian", "Indian", "foreign"]


class EndpointSpeaker(Group):
    gender: Gender
    accent: Accent


def _endpoint_voice(name: str) -> str:
    """`name`, which holds the model and its voice. A model may have a `/`, as OWNER/NAME has."""
    if not re.fullmatch(r"endpoint-[^\s/][^\s]*/[^\s/]+", name):
        raise ValueError("name a voice of an endpoint as endpoint-MODEL/VOICE, such as endpoint-tts-1/alloy")
    return name


EndpointVoice = Annotated[str, AfterValidator(_endpoint_voice)]


class Voice(Group):
    seed: int
    train_clips_per_row: PositiveInt
    heldout_voices: list[str]
    validation_voices: list[str]
    endpoint_voices: dict[EndpointVoice, EndpointSpeaker]
    rate: Range
    pitch_semitones: Range
    level_db: Range
    max_duration_s: Positive
    conditions: dict[str, dict[str, Range]]


class AsrAdapterTexts(Group):
    seed: int
    num_instructions: Count
    num_questions: Count
    num_sentences: Count
    num_composed: Count


class AsrAdapter(Group):
    seed: int
    texts: AsrAdapterTexts
    natural_share: Share
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
    asr_adapter_below: Annotated[float, Le(0)]
    asr_adapter_margin: Annotated[float, Ge(0)]
    asr_adapter_question_margin: Annotated[float, Ge(0)]
    max_transcript_tokens: PositiveInt
    max_completion_tokens: PositiveInt

    @model_validator(mode="after")
    def _check_top_k(self) -> "Base":
        if (self.min_asr_uncertainty or self.adapter_min_asr_uncertainty) and self.top_k == 1:
            raise ValueError(
                "with top_k 1 the ASR uncertainty is always 0: set min_asr_uncertainty and "
                "adapter_min_asr_uncertainty to 0, or top_k to 2 or more"
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
    def _check_any_weight(self) -> "RewardWeights":
        if not any(self.model_dump().values()):
            raise ValueError(
                "every weight is 0: set one above it, or use the method opd, which learns from the teacher's "
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
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"repeated: {', '.join(repeated)}; name each once")
    return names


def _by_content(start_from: str) -> str:
    """FOLDER#HASH: the hash identifies an adapter by its content, whatever its folder."""
    folder, _, digest = start_from.rpartition("#")
    if folder and re.fullmatch(r"[0-9a-f]{16}", digest):
        return start_from
    weights = Path(start_from) / "adapter_model.safetensors"
    if weights.exists():
        raise ValueError(f"name the adapter with its content: write {start_from}#{sha256(weights)[:16]}")
    raise ValueError(
        "name the adapter with its content: write FOLDER#HASH, HASH being the first 16 hex digits of the "
        "sha256 of FOLDER/adapter_model.safetensors"
    )


class Align(Group):
    """`max_completion_tokens` limits the answers that opd, dpo and rba sample.

    The teacher's answers, the targets of sft, kd and dpo, are limited by `synthesize.max_completion_tokens`
    alone.
    """

    methods: Annotated[list[Literal["sft", "kd", "opd", "dpo", "rba"]], MinLen(1), AfterValidator(_once)]
    seed: Annotated[int, Interval(ge=0, lt=2**32)]  # the seeds that numpy accepts
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
    def _check_steps(self) -> "Align":
        for method in self.methods:
            if getattr(self, method).max_steps == 0 and not self.start_from:
                raise ValueError(
                    f"align.{method}.max_steps is 0, so it would publish an unchanged student: set it above "
                    f"0, remove {method} from align.methods, or name an adapter in align.start_from"
                )
        return self

    @model_validator(mode="after")
    def _check_rba_batch(self) -> "Align":
        batch, group = 2 * self.per_device_train_batch_size, self.rba.num_generations
        if "rba" in self.methods and batch % group:
            allowed = [str(n) for n in range(2, batch + 1) if batch % n == 0]
            raise ValueError(
                f"rba samples 2 * align.per_device_train_batch_size = {batch} answers a step, which is no "
                f"multiple of align.rba.num_generations = {group}: set it to {', '.join(allowed)}, or change "
                "the batch"
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


class Register(Group):
    # MLflow allows 256 characters with "-candidates", no "/" and no ":"; a quote ends its filter strings
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
    def _check_groups(self) -> "Params":
        for check in CHECKS:
            check(self)
        return self
