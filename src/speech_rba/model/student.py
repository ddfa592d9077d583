"""The student of the default: Whisper hears, and a language model gets its words as soft tokens."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from speech_rba.config import Assets, Base
from speech_rba.errors import UserError
from speech_rba.model.audio_tower import AudioTower, Hypothesis, load_audio_tower, transcribe
from speech_rba.model.bridge import Bridge, SoftTokens, one_hot_tokens
from speech_rba.model.frame import chat_frame, end_with_the_line, translation_frame
from speech_rba.model.language import embed, load_language_model, load_tokenizer
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import ATTRIBUTES

ASR_ADAPTER = "asr_adapter"  # the subfolder of a saved student
PROJECTOR = "multi_modal_projector"


class StudentConfig(PreTrainedConfig):
    """`language_model` and `audio_tower` are asset names (see assets.py); with a `target_language` it translates."""

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
        max_transcript_tokens=96,
        max_completion_tokens=32,
        **kwargs,
    ):  # fmt: skip
        self.language_model, self.audio_tower, self.audio_width = language_model, audio_tower, audio_width
        self.system_prompt, self.target_language = system_prompt, target_language
        self.soft_top_k, self.soft_temperature = soft_top_k, soft_temperature
        self.min_asr_uncertainty, self.adapter_min_asr_uncertainty = (
            min_asr_uncertainty,
            adapter_min_asr_uncertainty,
        )
        self.max_transcript_tokens, self.max_completion_tokens = max_transcript_tokens, max_completion_tokens
        super().__init__(**kwargs)


class AttributeHead(nn.Module):
    """How a clip sounds, as an offset (S, D) to each of the S embeddings between query and answer.

    The offset is the part of the one name that the query's words ask about, and exactly zero where they ask about none
    or nothing was trained: other answers stay as they are, and nothing else of a voice reaches the language model.
    """

    def __init__(self, audio_width: int, num_positions: int, hidden_size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * audio_width))
        self.register_buffer("deviation", torch.ones(2 * audio_width))
        self.attributes = nn.Linear(
            2 * audio_width, len(ATTRIBUTES)
        )  # from the sound: one value of the name, or the other
        self.question = nn.Linear(hidden_size, len(ATTRIBUTES))  # from the words: about this name, or not
        self.offset = nn.Linear(2 * len(ATTRIBUTES), num_positions * hidden_size, bias=False)
        for layer in (self.attributes, self.question, self.offset):
            for weights in layer.parameters():
                nn.init.zeros_(weights)
        self.num_positions = num_positions

    def asks(self, words: torch.Tensor) -> torch.Tensor:
        """1 for the name that a query's word embeddings (T, D), of unit size, ask about and 0 for the others, (5,)."""
        logits = self.question(words.sum(0))
        return nn.functional.one_hot(logits.argmax(), len(ATTRIBUTES)) * (logits.max() > 0)

    def forward(self, attribute_features: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        attributes, asks = (
            self.attributes((attribute_features - self.mean) / self.deviation).tanh(),
            self.asks(words),
        )
        return self.offset(torch.cat([asks, asks * attributes])).view(self.num_positions, -1)


class Student(SpeechStudent):
    config_class = StudentConfig

    def __init__(self, config: StudentConfig, dtype: torch.dtype = torch.float32):
        super().__init__(config)
        self.tokenizer = load_tokenizer(config.language_model)
        self.language_model = load_language_model(config.language_model, dtype)
        self.multi_modal_projector = nn.Linear(
            config.audio_width, self.language_model.config.hidden_size, bias=False
        )
        nn.init.zeros_(self.multi_modal_projector.weight)
        table = self.language_model.get_input_embeddings()
        scale = float(getattr(table, "embed_scale", 1.0))  # Gemma's are larger than what stands in its table
        self.embedding_rms = table.weight.float().pow(2).mean().sqrt().item() * scale
        if config.target_language:
            end_with_the_line(self.tokenizer)
            self.prefix_ids, self.suffix_ids = translation_frame(self.tokenizer, config.target_language)
        else:
            self.prefix_ids, self.suffix_ids = chat_frame(self.tokenizer, config.system_prompt)
        config.bos_token_id, config.eos_token_id = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        self.attribute_head = AttributeHead(
            config.audio_width, len(self.suffix_ids), self.language_model.config.hidden_size
        )
        self.generation_config = self.language_model.generation_config
        self.asr_adapter: Path | None = None  # the adapter of the audio tower, if one was trained

    @functools.cached_property
    def audio_tower(self) -> AudioTower:
        """Loaded when first used: training and evaluation read what was heard from a file."""
        return load_audio_tower(self.config.audio_tower, self.asr_adapter)

    @functools.cached_property
    def bridge(self) -> Bridge:
        return Bridge(self.audio_tower.tokenizer, self.tokenizer)

    @property
    def transcribes_as_judge(self) -> bool:
        return self.asr_adapter is None

    def get_ready(self) -> None:
        _ = self.audio_tower

    def transcribe(self, clips: list[np.ndarray], **settings) -> list[Hypothesis]:
        return transcribe(self.audio_tower, clips, **settings)

    def transcript(self, hypothesis: Hypothesis) -> str | None:
        return self.audio_tower.text(hypothesis.token_ids.tolist())

    def build_prompt(self, hypothesis: Hypothesis) -> SoftTokens:
        """Soft tokens of what was heard in asr_uncertainty; what was not is read like a written prompt."""
        soft = self.bridge.cross(hypothesis, self.config.soft_top_k, self.config.soft_temperature)
        if self.is_uncertain(soft):
            return soft
        return replace(
            self.text_prompts([self.transcript(hypothesis)])[0],
            attribute_features=hypothesis.attribute_features,
        )

    def text_prompts(self, prompts: list[str]) -> list[SoftTokens]:
        """Written prompts in the same form: what the teacher and the cascade get."""
        ids = [self.tokenizer(p, add_special_tokens=False).input_ids for p in prompts]
        return [one_hot_tokens(i, self.config.audio_width) for i in ids]

    def uses_attributes(self, prompt: SoftTokens) -> bool:
        """Whether the words of `prompt` ask how it sounds, and so its sound changes the answer."""
        return len(prompt.attribute_features) > 0 and bool(self.attribute_head.asks(self.words(prompt)).any())

    def words(self, prompt: SoftTokens) -> torch.Tensor:
        """(T, D): the embedding of each position's likeliest token, of unit size."""
        table = self.language_model.get_input_embeddings()
        return table(prompt.ids[:, 0].to(table.weight.device)).float() / self.embedding_rms

    def prompt_embeds(self, prompts: list[SoftTokens]) -> list[torch.Tensor]:
        """(T + suffix, D) for each prompt; the chat template's prefix is not in it."""
        embedding = self.language_model.get_input_embeddings()
        table = embedding.weight
        suffix = embed(self.language_model, self.suffix_ids)
        embeds = []
        for p in prompts:
            mixed = (embedding(p.ids.to(table.device)) * p.weights.to(table.device)[..., None]).sum(1)
            # at the scale of an embedding: raw decoder states gave the projector gradients 100 times the others'
            hidden = (
                nn.functional.layer_norm(p.hidden.to(table.device), p.hidden.shape[1:]) * self.embedding_rms
            )
            end = suffix
            if len(p.attribute_features):
                sound = self.attribute_head(p.attribute_features.to(table.device), self.words(p))
                end = suffix + sound * self.embedding_rms
            embeds.append(torch.cat([mixed + self.multi_modal_projector(hidden), end]).to(table.dtype))
        return embeds

    def lora_targets(self, modules: list[str]) -> list[str]:
        return [*modules, PROJECTOR]

    def save_pretrained(self, folder: Path, **kwargs) -> None:
        """Writes config, projectors and asr_adapter; the frozen parts are named in the config, not copied."""
        super().save_pretrained(folder, **kwargs)
        if self.asr_adapter:
            shutil.copytree(self.asr_adapter, Path(folder) / ASR_ADAPTER, dirs_exist_ok=True)

    @classmethod
    def from_pretrained(cls, folder: Path, *args, **kwargs) -> "Student":
        student = super().from_pretrained(folder, *args, **kwargs)
        student.asr_adapter = asr_adapter if (asr_adapter := Path(folder) / ASR_ADAPTER).exists() else None
        return student


def build_student(assets: Assets, base: Base, asr_adapter: Path | None, dtype: torch.dtype) -> Student:
    """The student that `params.yaml` describes, its projectors at zero and its language model in `dtype`.

    Raises:
        UserError: `asr_adapter` were trained for another audio tower.
    """
    if asr_adapter:
        fit = json.loads((asr_adapter / "asr_adapter.json").read_text())["audio_tower"]
        if fit != assets.audio_tower:
            raise UserError(
                f"{asr_adapter} was trained for {fit}, assets.audio_tower is {assets.audio_tower}: run `make asr_adapter`, "
                "or set base.asr_adapter to false"
            )
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
        max_transcript_tokens=base.max_transcript_tokens,
        max_completion_tokens=base.max_completion_tokens,
    )
    student = Student(config, dtype).eval()
    student.asr_adapter = asr_adapter
    return student
