"""Any speech LLM of transformers as the student, for example Qwen2-Audio, Voxtral or Audio Flamingo,
unchanged.

Its processor and model code merge the audio into the prompt. The embeddings that it gives its language model
are kept, once for each clip. With them it is trained and answers as every student.
"""

import re
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig

from speech_rba.assets.resolve import resolve
from speech_rba.compute.device import device
from speech_rba.errors import UserError
from speech_rba.model.audio_tower import SAMPLING_RATE, Hypothesis, check_length
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.speech_student import SpeechStudent

MARK = "\u241e"  # stands for an answer while the chat template is looked at


class SpeechLlmConfig(PreTrainedConfig):
    """`speech_llm` and `audio_tower`, the judge, are asset names (assets/resolve.py)."""

    model_type = "speech_rba_speech_llm"

    def __init__(
        self,
        speech_llm="",
        audio_tower="",
        system_prompt="",
        max_transcript_tokens=96,
        max_completion_tokens=32,
        **kwargs,
    ):
        self.speech_llm, self.audio_tower, self.system_prompt = speech_llm, audio_tower, system_prompt
        self.max_transcript_tokens, self.max_completion_tokens = max_transcript_tokens, max_completion_tokens
        # it has no ASR uncertainty: an adapter takes part in every answer
        self.soft_top_k, self.min_asr_uncertainty, self.adapter_min_asr_uncertainty = 1, 0.0, 0.0
        super().__init__(**kwargs)


class Merged(Exception):
    """Carries the embeddings that a model gives its language model, and stops the model there."""

    def __init__(self, embeds: torch.Tensor):
        self.embeds = embeds


class SpeechLlmStudent(SpeechStudent):
    config_class = SpeechLlmConfig

    def __init__(self, config: SpeechLlmConfig, dtype: torch.dtype = torch.float32):
        super().__init__(config)
        folder = resolve(config.speech_llm)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        architecture = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0])
        model = architecture.from_pretrained(folder, dtype=dtype)
        self.language_model = model.eval().requires_grad_(False).to(device())
        self.generation_config = self.language_model.generation_config
        self.prefix_ids = []
        if end := turn_end(self.processor):
            self.tokenizer.eos_token = end

    @torch.no_grad()
    def transcribe(
        self, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
    ) -> list[Hypothesis]:
        """The whole prompt around each clip, as the model gets it: token ids without alternatives, and as
        `hidden` their embeddings (T, D).

        Raises:
            UserError: a clip is empty or longer than 30 s, where the processors of speech LLMs cut it.
        """
        for clip in clips:
            check_length(clip)
        with tempfile.TemporaryDirectory() as folder:
            return [self._encoded(clip, Path(folder) / "clip.wav") for clip in clips]

    def _encoded(self, clip: np.ndarray, path: Path) -> Hypothesis:
        soundfile.write(path, clip, SAMPLING_RATE, subtype="FLOAT")  # every processor takes a file
        inputs = self._prompt({"type": "audio", "path": str(path)})
        embeds = self._merged(inputs.to(self.device, self.dtype)).cpu()
        ids = inputs["input_ids"][0].cpu()
        if embeds.shape[:1] != ids.shape:
            raise UserError(
                f"{self.config.speech_llm} gives its language model {len(embeds)} vectors for {len(ids)} "
                "tokens: a processor that leaves the room for audio to the model is not supported"
            )
        none = torch.empty(0)
        return Hypothesis(ids, ids[:, None], torch.ones(len(ids), 1), embeds.float(), none, mean_logprob=0.0)

    def _prompt(self, content: dict) -> transformers.BatchFeature:
        before = [{"type": "text", "text": self.config.system_prompt}] if self.config.system_prompt else []
        messages = [{"role": "user", "content": [*before, content]}]
        return self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    def _merged(self, inputs: transformers.BatchFeature) -> torch.Tensor:
        def catch(module, args, kwargs):
            raise Merged(kwargs["inputs_embeds"][0])

        hook = self.language_model.get_decoder().register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.language_model(**inputs)
        except Merged as merged:
            return merged.embeds
        finally:
            hook.remove()
        raise UserError(
            f"{self.config.speech_llm} does not call its decoder with embeddings: it is not supported"
        )

    def build_prompt(self, hypothesis: Hypothesis) -> SoftTokens:
        return SoftTokens(hypothesis.top_ids, hypothesis.top_probs, hypothesis.hidden, torch.empty(0))

    def transcript(self, hypothesis: Hypothesis) -> str | None:
        return None

    @torch.no_grad()
    def text_prompts(self, prompts: list[str]) -> list[SoftTokens]:
        table = self.language_model.get_input_embeddings()
        soft = []
        for prompt in prompts:
            ids = self._prompt({"type": "text", "text": prompt})["input_ids"][0].cpu()
            hidden = table(ids.to(self.device)).float().cpu()
            soft.append(SoftTokens(ids[:, None], torch.ones(len(ids), 1), hidden, torch.empty(0)))
        return soft

    def prompt_embeds(self, prompts: list[SoftTokens]) -> list[torch.Tensor]:
        return [prompt.hidden.to(self.device, self.dtype) for prompt in prompts]

    def lora_targets(self, modules: list[str]) -> str:
        """The layers of its language model, and none of the same name in its audio tower."""
        decoder = self.language_model.get_decoder()
        name = next(name for name, module in self.named_modules() if module is decoder)
        return rf"{re.escape(name)}\.(.*\.)?({'|'.join(map(re.escape, modules))})"


def turn_end(processor) -> str | None:
    """The token that ends the assistant's turn in the chat template; None for a processor without one."""
    if not getattr(processor, "chat_template", None):
        return None
    messages = [{"role": role, "content": [{"type": "text", "text": MARK}]} for role in ("user", "assistant")]
    rest = processor.apply_chat_template(messages, tokenize=False).split(MARK)[-1]
    ids = processor.tokenizer(rest, add_special_tokens=False).input_ids
    return processor.tokenizer.convert_ids_to_tokens(ids[0]) if ids else None
