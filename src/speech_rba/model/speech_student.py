"""What every student can do: answer prompts and give the probability of an answer. A subclass says how it
encodes audio."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from speech_rba.errors import UserError
from speech_rba.model.audio_tower import Hypothesis, Word
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.generation import generate, prefill, stream
from speech_rba.model.language import embed

FROZEN = "language_model."


class SpeechStudent(PreTrainedModel):
    """A subclass has `tokenizer`, `language_model` and `prefix_ids`, with which every prompt begins.

    Its config names the frozen parts and `audio_tower`, the unadapted Whisper whose transcripts validate
    clips.
    """

    base_model_prefix = "language_model"
    config_class: type[PreTrainedConfig]
    _supports_sdpa = True
    tokenizer: PreTrainedTokenizerBase
    language_model: PreTrainedModel
    prefix_ids: list[int]

    def get_ready(self) -> None:
        """Loads what every clip needs."""

    def transcribe(
        self, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
    ) -> list[Hypothesis]:
        """The hypothesis of each clip (float32, 16 kHz mono), with `top_k` alternatives if it has any."""
        raise NotImplementedError

    def build_prompt(self, hypothesis: Hypothesis) -> SoftTokens:
        """The prompt for a hypothesis."""
        raise NotImplementedError

    def transcript(self, hypothesis: Hypothesis) -> str | None:
        """The words of a hypothesis; None of a student without a transcript."""
        raise NotImplementedError

    def transcript_words(self, hypothesis: Hypothesis) -> tuple[Word, ...]:
        """Each word of a hypothesis with its probability; none of a student without a transcript."""
        return ()

    def text_prompts(self, prompts: list[str]) -> list[SoftTokens]:
        """Written prompts in the same form: the input of the teacher and of the cascade."""
        raise NotImplementedError

    def prompt_embeds(self, prompts: list[SoftTokens]) -> list[torch.Tensor]:
        """The language model's input for each prompt, behind the prefix, on its device: (T_i, D)."""
        raise NotImplementedError

    def lora_targets(self, modules: list[str]) -> list[str] | str:
        """For PEFT: the layers to train, among them those of the language model with these names."""
        raise NotImplementedError

    def transcribe_exactly(self, clips: list[np.ndarray]) -> list[Hypothesis]:
        """The hypothesis of each clip (float32, 16 kHz mono), as held-out clips are transcribed."""
        limits = {"top_k": self.config.soft_top_k, "max_tokens": self.config.max_transcript_tokens}
        return self.transcribe(clips, **limits, dtype=torch.float32)

    def encode_audio(self, clips: list[np.ndarray]) -> tuple[list[SoftTokens], list[str | None]]:
        """The prompt and the transcript of each clip (float32, 16 kHz mono), whatever its batch."""
        hypotheses = self.transcribe_exactly(clips)
        return [self.build_prompt(h) for h in hypotheses], [self.transcript(h) for h in hypotheses]

    def is_uncertain(self, prompt: SoftTokens) -> bool:
        """Whether the ASR uncertainty of `prompt` is high enough that an adapter learns from it; none learns
        from a prompt without positions."""
        return len(prompt) > 0 and prompt.asr_uncertainty >= self.config.min_asr_uncertainty

    def uses_attributes(self, prompt: SoftTokens) -> bool:
        """Whether the answer depends on `prompt.attribute_features`."""
        return False

    def forward(
        self,
        prompts: list[SoftTokens],
        owners_B: torch.Tensor,
        completion_ids_BC: torch.Tensor,
        completion_mask_BC: torch.Tensor,
    ) -> torch.Tensor:
        """The last hidden state (N, D) before each of the N completion tokens that the mask keeps, row by
        row, given `prompts[owners_B[b]]`; `head` turns it into logits.

        The prefix is computed once for all and a prompt once for all its completions.
        """
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        prefix = embed(self.language_model, self.prefix_ids)
        first, mask = prefill(self.language_model, prefix, self.prompt_embeds(prompts), cache)
        hidden, mask = first[owners_B][:, None], mask[owners_B]
        if completion_ids_BC.shape[1] > 1:
            cache.batch_select_indices(owners_B)
            steps = completion_mask_BC[:, :-1]
            rest = self.language_model.base_model(
                input_ids=completion_ids_BC[:, :-1],
                attention_mask=torch.cat([mask, steps], dim=1),
                position_ids=mask.sum(1, keepdim=True) + torch.arange(steps.shape[1], device=mask.device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            hidden = torch.cat([hidden, rest], dim=1)
        return hidden[completion_mask_BC.bool()]

    @property
    def head(self) -> nn.Linear:
        """Logits (N, V) of hidden states (N, D)."""
        return self.language_model.get_output_embeddings()

    def answer(self, prompts: list[SoftTokens], **sampling) -> list[list[int]]:
        """Token ids that answer each prompt; `sampling` as for `generation.generate`."""
        with torch.no_grad():
            embeds, prefix = self.prompt_embeds(prompts), embed(self.language_model, self.prefix_ids)
        eos = self.tokenizer.eos_token_id
        return generate(self.language_model, embeds, prefix=prefix, eos_token_id=eos, **sampling)

    def stream(self, prompt: SoftTokens, max_new_tokens: int) -> Iterator[int]:
        """Token ids of the greedy answer to `prompt`, each when it is known."""
        with torch.no_grad():
            [embeds], prefix = self.prompt_embeds([prompt]), embed(self.language_model, self.prefix_ids)
        eos = self.tokenizer.eos_token_id
        yield from stream(
            self.language_model, embeds, prefix=prefix, eos_token_id=eos, max_new_tokens=max_new_tokens
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Writes the config and what is not frozen; the frozen parts are named in the config, not copied."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        weights = {
            name: w.contiguous() for name, w in self.state_dict().items() if not name.startswith(FROZEN)
        }
        save_file(weights, folder / "model.safetensors")

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a student is always a folder, never a hub id
        cls, folder: str | os.PathLike, *args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> "SpeechStudent":
        """The student saved in `folder`, its language model in `dtype`, on the device of compute/device.py.

        Raises:
            UserError: a weight is missing or of another student.
        """
        student = cls(cls.config_class.from_pretrained(folder), dtype)
        state = load_file(Path(folder) / "model.safetensors")
        missing, unknown = student.load_state_dict(state, strict=False)
        if wrong := [*(name for name in missing if not name.startswith(FROZEN)), *unknown]:
            raise UserError(f"{folder} was saved by another version: {', '.join(wrong)}; run its stage again")
        return student.eval()
