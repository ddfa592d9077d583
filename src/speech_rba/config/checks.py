"""What several groups of params.yaml must agree on. Each check raises ValueError with the keys to change."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from speech_rba.records import ALIGNMENT

if TYPE_CHECKING:
    from speech_rba.config.params import Params

# the metrics of which more is better: of synthesized rows, and of suites by the kind of their questions
ALIGNMENT_METRICS = ("token_f1", "teacher_similarity", "teacher_logp", "teacher_pmi", "prompt_retrieval_mrr")
SUITE_METRICS = ("accuracy", "refused", "followed", "followed_loosely", "chrf", "teacher_pmi")
MAX_HELD_OUT_SHARE = 0.6  # most rows must stay for training


def check_rank_by(params: "Params") -> None:
    """`register.rank_by` names a score that exists."""
    rank_by, suites = params.register_.rank_by, [ALIGNMENT, *params.evaluate.suites]
    suite, *rest = rank_by.split("/")
    if suite not in suites or len(rest) != 2:
        raise ValueError(
            f"set register.rank_by to suite/condition/metric with a suite of {', '.join(suites)}; it is "
            f"{rank_by!r}"
        )
    metrics = ALIGNMENT_METRICS if suite == ALIGNMENT else SUITE_METRICS
    for part, name, allowed in (
        ("condition", rest[0], ("all", "degraded", *params.voice.conditions)),
        (f"metric of {suite}", rest[1], metrics),
    ):
        if name not in allowed:
            raise ValueError(
                f"register.rank_by is {rank_by!r}: set its {part} to one of {', '.join(allowed)}"
            )


def check_held_out_share(params: "Params") -> None:
    """Most synthesized rows are for training."""
    held_out = params.synthesize.validation_share + params.synthesize.test_share
    if held_out > MAX_HELD_OUT_SHARE:
        raise ValueError(
            f"synthesize.validation_share and test_share are {held_out:g} together, which leaves too few "
            f"rows for training: lower them to at most {MAX_HELD_OUT_SHARE}"
        )


def check_num_check_clips(params: "Params") -> None:
    """There are enough test rows for the check of the reloaded model."""
    texts = params.synthesize
    rows = texts.num_instructions + texts.num_questions + texts.num_constrained + texts.num_translations
    if params.register_.num_check_clips > (num_test := int(rows * texts.test_share)):
        raise ValueError(
            f"register.num_check_clips is {params.register_.num_check_clips}, and {rows} rows with "
            f"synthesize.test_share {texts.test_share} give {num_test} test rows: lower it to that"
        )


def check_text_seeds(params: "Params") -> None:
    """The student is not aligned on the texts that its ASR adapter was trained on."""
    if params.asr_adapter.texts.seed == params.synthesize.seed:
        raise ValueError(
            "synthesize.seed and asr_adapter.texts.seed are equal, so the ASR adapter would be trained on "
            "the texts of this run: change synthesize.seed"
        )


def check_teacher_pmi(params: "Params") -> None:
    """The reward teacher_pmi is given only where the student has the teacher's language model."""
    language_model = params.assets.speech_llm or params.assets.language_model
    if params.align.rba.reward_weights.teacher_pmi and params.assets.teacher != language_model:
        raise ValueError(
            "the reward teacher_pmi is computed with the student's language model, which assets.teacher is "
            "not: set align.rba.reward_weights.teacher_pmi to 0"
        )


def check_instruction_reward(params: "Params") -> None:
    """The reward instructions is given only where prompts contain instructions."""
    weight = params.align.rba.reward_weights.instructions
    if "rba" in params.align.methods and weight and not params.synthesize.num_constrained:
        raise ValueError(
            "the reward instructions scores constrained prompts, and synthesize.num_constrained is 0: "
            "set it above 0, or align.rba.reward_weights.instructions to 0"
        )


def check_translation(params: "Params") -> None:
    """A run either answers or translates, and only the student with soft tokens translates."""
    language, texts = params.assets.target_language, params.synthesize
    num_others = texts.num_instructions + texts.num_questions + texts.num_constrained
    if language and (num_others or not texts.num_translations):
        raise ValueError(
            f"with assets.target_language {language}, every row is a translation: set "
            "synthesize.num_instructions, num_questions and num_constrained to 0 and num_translations above "
            "0"
        )
    if texts.num_translations and not language:
        raise ValueError(
            "synthesize.num_translations needs assets.target_language: set it, or num_translations to 0"
        )
    if language and (params.assets.speech_llm or params.base.attributes):
        raise ValueError(
            "with assets.target_language the student has soft tokens and no attribute head: "
            "set assets.speech_llm to null and base.attributes to false"
        )


def check_speech_llm(params: "Params") -> None:
    """A speech LLM of others has no ASR adapter, no attribute head and no ASR uncertainty."""
    base = params.base
    thresholds = base.min_asr_uncertainty or base.adapter_min_asr_uncertainty
    if params.assets.speech_llm and (base.asr_adapter or base.attributes or thresholds):
        raise ValueError(
            "assets.speech_llm has no ASR adapter, no attribute head and no ASR uncertainty: set "
            "base.asr_adapter and attributes to false, and base.min_asr_uncertainty and "
            "adapter_min_asr_uncertainty to 0"
        )


CHECKS: tuple[Callable[["Params"], None], ...] = (
    check_rank_by,
    check_held_out_share,
    check_num_check_clips,
    check_text_seeds,
    check_teacher_pmi,
    check_instruction_reward,
    check_translation,
    check_speech_llm,
)
