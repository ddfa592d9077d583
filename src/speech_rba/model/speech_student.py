"""What every student can do: answer prompts, and say how likely an answer is. How it hears is for its subclass."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from speech_rba.errors import UserError
from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.generation import generate, prefill
from speech_rba.model.language import embed

FROZEN = "language_model."


class SpeechStudent(PreTrainedModel):
    """A subclass has `tokenizer`, `language_model` and `prefix_ids`, with which every prompt begins.

    Its config names the frozen parts and `audio_tower`, the Whisper that judges what is heard.
    """

    base_model_prefix = "language_model"
    _supports_sdpa = True

    @property
    def transcribes_as_judge(self) -> bool:
        """Whether its transcripts are those of the Whisper that judges."""
        return False

    def get_ready(self) -> None:
        """Loads now what would be loaded with the first clip."""

    def transcribe(
        self, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
    ) -> list[Hypothesis]:
        """What it hears in each clip (float32, 16 kHz mono), with `top_k` alternatives if it has any."""
        raise NotImplementedError

    def build_prompt(self, hypothesis: Hypothesis) -> SoftTokens:
        """The prompt that it makes of what it heard."""
        raise NotImplementedError

    def transcript(self, hypothesis: Hypothesis) -> str | None:
        """The words of what it heard; None if it writes none down."""
        raise NotImplementedError

    def text_prompts(self, prompts: list[str]) -> list[SoftTokens]:
        """Written prompts in the same form: what the teacher and the cascade get."""
        raise NotImplementedError

    def prompt_embeds(self, prompts: list[SoftTokens]) -> list[torch.Tensor]:
        """What the language model gets of each prompt, behind the prefix: (T_i, D)."""
        raise NotImplementedError

    def lora_targets(self, modules: list[str]) -> list[str] | str:
        """For PEFT: which layers are trained, those of the language model with these names among them."""
        raise NotImplementedError

    def encode_audio(self, clips: list[np.ndarray]) -> tuple[list[SoftTokens], list[str | None]]:
        """The prompt and the transcript of each clip (float32, 16 kHz mono), whatever its batch."""
        limits = {"top_k": self.config.soft_top_k, "max_tokens": self.config.max_transcript_tokens}
        hypotheses = self.transcribe(clips, **limits, dtype=torch.float32)
        return [self.build_prompt(h) for h in hypotheses], [self.transcript(h) for h in hypotheses]

    def is_uncertain(self, prompt: SoftTokens) -> bool:
        """Whether `prompt` was heard with so much asr_uncertainty that an adapter learns from it."""
        return prompt.asr_uncertainty >= self.config.min_asr_uncertainty

    def uses_attributes(self, prompt: SoftTokens) -> bool:
        """Whether the answer depends on `prompt.attribute_features`."""
        return False

    def forward(
        self, prompts: list[SoftTokens], owners_B: torch.Tensor, completion_ids_BC: torch.Tensor,
        completion_mask_BC: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """What `head` turns into logits: the last hidden state (N, D) before each of the N completion tokens that the
        mask keeps, row by row, given `prompts[owners_B[b]]`.

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

    def save_pretrained(self, folder: Path, **kwargs) -> None:
        """Writes the config and what is not frozen; the frozen parts are named in the config, not copied."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        weights = {
            name: w.contiguous() for name, w in self.state_dict().items() if not name.startswith(FROZEN)
        }
        save_file(weights, Path(folder) / "model.safetensors")

    @classmethod
    def from_pretrained(
        cls, folder: Path, *args, dtype: torch.dtype = torch.float32, **kwargs
    ) -> "SpeechStudent":
        """The student saved in `folder`, its language model in `dtype`.

        Raises:
            UserError: a weight is missing or of another student.
        """
        student = cls(cls.config_class.from_pretrained(folder), dtype)
        missing, unknown = student.load_state_dict(
            load_file(Path(folder) / "model.safetensors"), strict=False
        )
        if wrong := [*(name for name in missing if not name.startswith(FROZEN)), *unknown]:
            raise UserError(f"{folder} was saved by another version: {', '.join(wrong)}; run its stage again")
        return student.eval()
