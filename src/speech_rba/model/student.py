"""The default student: Whisper transcribes, and a language model gets the hypothesis as soft tokens."""

import functools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from speech_rba.compute.device import device
from speech_rba.config import Assets, Base
from speech_rba.errors import UserError
from speech_rba.model.audio_tower import AudioTower, Hypothesis, Word, load_audio_tower
from speech_rba.model.bridge import Bridge, SoftTokens, one_hot_tokens
from speech_rba.model.frame import chat_frame, end_with_the_line, translation_frame
from speech_rba.model.language import embed, load_language_model, load_tokenizer
from speech_rba.model.long_audio import transcribe
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import ATTRIBUTES

ASR_ADAPTER = "asr_adapter"  # the subfolder of a saved student
PROJECTOR = "multi_modal_projector"
# Of the audio tower, about 90 s of speech. Behind 256 tokens of other statements SmolLM2-135M answers 12 of
# 16 questions of the spoken_qa suite rightly, as it does the questions alone.
MAX_PROMPT_TOKENS = 256


class StudentConfig(PreTrainedConfig):
    """`language_model` and `audio_tower` are asset names (assets/resolve.py); with a `target_language` the
    student translates."""

    model_type = "speech_rba"

    def __init__(
        self,
        language_model="",
        audio_tower="",
        audio_width=0,
        system_prompt="",
        target_language="",
        soft_top_k=1,
        soft_temperature=1.0,
        min_asr_uncertainty=0.0,
        adapter_min_asr_uncertainty=0.0,
        asr_adapter_below=0.0,
        asr_adapter_margin=0.0,
        asr_adapter_question_margin=0.0,
        max_transcript_tokens=96,
        max_completion_tokens=32,
        **kwargs,
    ):
        self.language_model, self.audio_tower, self.audio_width = language_model, audio_tower, audio_width
        self.system_prompt, self.target_language = system_prompt, target_language
        self.soft_top_k, self.soft_temperature = soft_top_k, soft_temperature
        self.min_asr_uncertainty = min_asr_uncertainty
        self.adapter_min_asr_uncertainty = adapter_min_asr_uncertainty
        self.asr_adapter_below, self.asr_adapter_margin = asr_adapter_below, asr_adapter_margin
        self.asr_adapter_question_margin = asr_adapter_question_margin
        self.max_transcript_tokens, self.max_completion_tokens = max_transcript_tokens, max_completion_tokens
        super().__init__(**kwargs)


class AttributeHead(nn.Module):
    """An offset (S, D) to the S embeddings between query and answer, from the clip's attributes.

    The offset depends on the one attribute that the query asks about. It is exactly zero for a query about
    none and before training: other answers do not change, and no other attribute reaches the language model.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, audio_width: int, num_positions: int, hidden_size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * audio_width))
        self.register_buffer("deviation", torch.ones(2 * audio_width))
        # log-odds of one value of an attribute against the other, from the attribute features
        self.attributes = nn.Linear(2 * audio_width, len(ATTRIBUTES))
        # log-odds that the query asks about an attribute, from its words
        self.question = nn.Linear(hidden_size, len(ATTRIBUTES))
        self.offset = nn.Linear(2 * len(ATTRIBUTES), num_positions * hidden_size, bias=False)
        for layer in (self.attributes, self.question, self.offset):
            for weights in layer.parameters():
                nn.init.zeros_(weights)
        self.num_positions = num_positions

    def asks(self, words: torch.Tensor) -> torch.Tensor:
        """1 for the attribute that a query asks about and 0 for the others, (5,), from its word embeddings
        (T, D) of unit size."""
        logits = self.question(words.sum(0))
        return nn.functional.one_hot(logits.argmax(), len(ATTRIBUTES)) * (logits.max() > 0)

    def forward(self, attribute_features: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        attributes = self.attributes((attribute_features - self.mean) / self.deviation).tanh()
        asks = self.asks(words)
        return self.offset(torch.cat([asks, asks * attributes])).view(self.num_positions, -1)


class Student(SpeechStudent):
    config_class = StudentConfig
    asr_adapter: Path | None  # the folder of the audio tower's adapter, if it has one

    def __init__(self, config: StudentConfig, dtype: torch.dtype = torch.float32):
        super().__init__(config)
        self.tokenizer = load_tokenizer(config.language_model)
        self.language_model = load_language_model(config.language_model, dtype)
        hidden_size = self.language_model.config.hidden_size
        self.multi_modal_projector = nn.Linear(config.audio_width, hidden_size, bias=False)
        nn.init.zeros_(self.multi_modal_projector.weight)
        scale = float(getattr(self.embedding, "embed_scale", 1.0))  # Gemma multiplies what its table holds
        self.embedding_rms = self.embedding.weight.float().pow(2).mean().sqrt().item() * scale
        if config.target_language:
            end_with_the_line(self.tokenizer)
            self.prefix_ids, self.suffix_ids = translation_frame(self.tokenizer, config.target_language)
        else:
            self.prefix_ids, self.suffix_ids = chat_frame(self.tokenizer, config.system_prompt)
        config.bos_token_id, config.eos_token_id = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        self.attribute_head = AttributeHead(config.audio_width, len(self.suffix_ids), hidden_size)
        self.generation_config = self.language_model.generation_config
        self.asr_adapter = None
        for module in (self.multi_modal_projector, self.attribute_head):
            module.to(device())

    @property
    def embedding(self) -> nn.Embedding:
        """The token embeddings of the language model."""
        table = self.language_model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    @functools.cached_property
    def audio_tower(self) -> AudioTower:
        """The unadapted Whisper, loaded when first used: training and evaluation read hypotheses from a
        file."""
        return load_audio_tower(self.config.audio_tower, None)

    @functools.cached_property
    def adapted_tower(self) -> AudioTower:
        """Whisper with the ASR adapter."""
        return load_audio_tower(self.config.audio_tower, self.asr_adapter)

    @property
    def towers(self) -> list[AudioTower]:
        """Those that it transcribes with, the unadapted one first."""
        return [self.audio_tower, *([self.adapted_tower] if self.asr_adapter else [])]

    @functools.cached_property
    def bridge(self) -> Bridge:
        return Bridge(self.audio_tower.tokenizer, self.tokenizer)

    def get_ready(self) -> None:
        """Loads Whisper. The adapted tower is loaded with the first clip of which Whisper is unsure."""
        _ = self.audio_tower

    def transcribe(
        self, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
    ) -> list[Hypothesis]:
        """Whisper's hypotheses, or the ASR adapter's where it is surer.

        Whisper alone transcribes a clip of which it is sure: that takes half the time, and people are then
        transcribed as well as without the adapter, which is trained on synthesized speech.
        """
        limits = {"top_k": top_k, "max_tokens": max_tokens}
        hypotheses = transcribe(self.audio_tower, clips, **limits, dtype=dtype)
        unsure = [i for i, hypothesis in enumerate(hypotheses) if self.is_unsure(hypothesis)]
        if not unsure:
            return hypotheses
        adapted = transcribe(self.adapted_tower, [clips[i] for i in unsure], **limits, dtype=dtype)
        for i, hypothesis in zip(unsure, adapted, strict=True):
            hypotheses[i] = self.surer(hypotheses[i], hypothesis)
        return hypotheses

    def is_unsure(self, whisper: Hypothesis) -> bool:
        """Whether the adapted tower transcribes too what Whisper transcribed so."""
        return self.asr_adapter is not None and whisper.mean_logprob < self.config.asr_adapter_below

    def surer(self, whisper: Hypothesis, adapted: Hypothesis) -> Hypothesis:
        """The adapted tower's hypothesis where its mean log-probability is higher by the margin, else
        Whisper's.

        The margin is larger where it alone is a question: half of the texts that it is trained on are. The
        attribute features are Whisper's, so that they do not depend on the choice.
        """
        margin = self.config.asr_adapter_margin
        if self.is_question(adapted) and not self.is_question(whisper):
            margin += self.config.asr_adapter_question_margin
        if adapted.no_speech or adapted.mean_logprob <= whisper.mean_logprob + margin:
            return whisper
        return replace(adapted, attribute_features=whisper.attribute_features)

    def is_question(self, hypothesis: Hypothesis) -> bool:
        return self.audio_tower.text(hypothesis.token_ids.tolist()).endswith("?")

    def transcript(self, hypothesis: Hypothesis) -> str | None:
        return self.audio_tower.text(hypothesis.token_ids.tolist())

    def transcript_words(self, hypothesis: Hypothesis) -> tuple[Word, ...]:
        return self.audio_tower.words(hypothesis)

    def build_prompt(self, hypothesis: Hypothesis) -> SoftTokens:
        """Soft tokens of an uncertain hypothesis; a certain one becomes what its transcript is as a
        written prompt. Of a long recording these are the last sentences, which hold the question."""
        hypothesis = last_sentences(hypothesis, self.audio_tower.tokenizer, MAX_PROMPT_TOKENS)
        soft = self.bridge.cross(hypothesis, self.config.soft_top_k, self.config.soft_temperature)
        if self.is_uncertain(soft):
            return soft
        [written] = self.text_prompts([self.audio_tower.text(hypothesis.token_ids.tolist())])
        return replace(written, attribute_features=hypothesis.attribute_features)

    def text_prompts(self, prompts: list[str]) -> list[SoftTokens]:
        """Written prompts in the same form: the input of the teacher and of the cascade."""
        ids = [self.tokenizer(p, add_special_tokens=False).input_ids for p in prompts]
        return [one_hot_tokens(i, self.config.audio_width) for i in ids]

    def uses_attributes(self, prompt: SoftTokens) -> bool:
        """Whether the words of `prompt` ask about an attribute, so that its features change the answer."""
        return len(prompt.attribute_features) > 0 and bool(self.attribute_head.asks(self.words(prompt)).any())

    def words(self, prompt: SoftTokens) -> torch.Tensor:
        """The embedding of each position's likeliest token, of unit size, (T, D)."""
        best_ids = prompt.ids[:, 0].to(self.embedding.weight.device)
        return self.embedding(best_ids).float() / self.embedding_rms

    def prompt_embeds(self, prompts: list[SoftTokens]) -> list[torch.Tensor]:
        """(T + suffix, D) for each prompt; the chat template's prefix is not in it."""
        suffix = embed(self.language_model, self.suffix_ids)
        return [self._prompt_embeds(prompt, suffix) for prompt in prompts]

    def _prompt_embeds(self, prompt: SoftTokens, suffix: torch.Tensor) -> torch.Tensor:
        place, dtype = self.embedding.weight.device, self.embedding.weight.dtype
        mixed = (self.embedding(prompt.ids.to(place)) * prompt.weights.to(place)[..., None]).sum(1)
        # at the scale of an embedding: raw decoder states gave the projector gradients 100 times the others'
        normed = nn.functional.layer_norm(prompt.hidden.to(place), prompt.hidden.shape[1:])
        projected = self.multi_modal_projector(normed * self.embedding_rms)
        if len(prompt.attribute_features):
            offset = self.attribute_head(prompt.attribute_features.to(place), self.words(prompt))
            suffix = suffix + offset * self.embedding_rms
        return torch.cat([mixed + projected, suffix]).to(dtype)

    def lora_targets(self, modules: list[str]) -> list[str]:
        return [*modules, PROJECTOR]

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Writes config, projector, attribute head and ASR adapter; the config names the frozen parts."""
        super().save_pretrained(save_directory)
        if self.asr_adapter:
            shutil.copytree(self.asr_adapter, Path(save_directory) / ASR_ADAPTER, dirs_exist_ok=True)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # as SpeechStudent's
        cls, folder: str | os.PathLike, *args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> "Student":
        student = super().from_pretrained(folder, dtype=dtype)
        assert isinstance(student, Student)
        asr_adapter = Path(folder) / ASR_ADAPTER
        student.asr_adapter = asr_adapter if asr_adapter.exists() else None
        return student


def last_sentences(hypothesis: Hypothesis, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Hypothesis:
    """The end of a hypothesis: at most `max_tokens`, from the start of a sentence on where one starts there.

    A hypothesis that is not longer is returned as it is.
    """
    if len(hypothesis.token_ids) <= max_tokens:
        return hypothesis
    start = len(hypothesis.token_ids) - max_tokens
    tokens = tokenizer.convert_ids_to_tokens(hypothesis.token_ids[start - 1 : -1].tolist())
    start += next((i for i, token in enumerate(tokens) if token.endswith((".", "?", "!"))), 0)
    fields = ("token_ids", "top_ids", "top_probs", "hidden")
    return replace(hypothesis, **{name: getattr(hypothesis, name)[start:] for name in fields})


def build_student(assets: Assets, base: Base, asr_adapter: Path | None, dtype: torch.dtype) -> Student:
    """The student that `params.yaml` describes, its projector and attribute head at zero, its language model
    in `dtype`.

    Raises:
        UserError: `asr_adapter` was trained for another audio tower.
    """
    if asr_adapter:
        check_audio_tower(asr_adapter, assets.audio_tower)
    config = StudentConfig(
        language_model=assets.language_model,
        audio_tower=assets.audio_tower,
        audio_width=load_audio_tower(assets.audio_tower, None).model.config.d_model,
        system_prompt=assets.system_prompt,
        target_language=assets.target_language or "",
        soft_top_k=base.top_k,
        soft_temperature=base.temperature,
        min_asr_uncertainty=base.min_asr_uncertainty,
        adapter_min_asr_uncertainty=base.adapter_min_asr_uncertainty,
        asr_adapter_below=base.asr_adapter_below,
        asr_adapter_margin=base.asr_adapter_margin,
        asr_adapter_question_margin=base.asr_adapter_question_margin,
        max_transcript_tokens=base.max_transcript_tokens,
        max_completion_tokens=base.max_completion_tokens,
    )
    student = Student(config, dtype).eval()
    student.asr_adapter = asr_adapter
    return student


def check_audio_tower(asr_adapter: Path, audio_tower: str) -> None:
    """Raises UserError unless `asr_adapter` was trained for `audio_tower`."""
    trained_for = json.loads((asr_adapter / "asr_adapter.json").read_text())["audio_tower"]
    if trained_for != audio_tower:
        raise UserError(
            f"{asr_adapter} was trained for {trained_for}, assets.audio_tower is {audio_tower}: run "
            "`make asr-adapter`, or set base.asr_adapter to false"
        )
