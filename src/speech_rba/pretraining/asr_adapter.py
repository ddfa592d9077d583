"""Training of the ASR adapter: LoRA on the encoder of a frozen Whisper, which learns to transcribe degraded
speech.

The decoder stays as it is: adapted, it learns the kinds of texts that it is trained on, and it adds little.
Without its part of an adapter of both, degraded clips of people have fewer errors, and synthesized ones
nearly as few.
The loss is the cross-entropy of the transcript, plus the distance of the encoder's states of the degraded
clip from those of the unadapted encoder for the clean clip, relative to their power.
"""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments, set_seed

from speech_rba.alignment.trainer import TrainingLog, train_from_checkpoint, trainer_arguments
from speech_rba.compute.device import fast_products
from speech_rba.config import AsrAdapter
from speech_rba.model.audio_tower import (
    SAMPLING_RATE,
    AudioTower,
    encode_features,
    mel_features,
    start_ids,
    window_s,
)
from speech_rba.pretraining.asr_speech import SpeechPair, SpeechPairs

LINEAR = r"self_attn\.(q|k|v|out)_proj|fc1|fc2"
FRAMES_PER_S = 100
WEIGHTS = "adapter_model.safetensors"


def train(
    tower: AudioTower, speech: SpeechPairs, settings: AsrAdapter, work: Path
) -> tuple[PeftModel, TrainingLog]:
    """The tower's Whisper with a trained adapter, and the log. A killed training resumes from `work`."""
    set_seed(settings.seed)
    model, log = add_lora(tower, settings.lora_r), TrainingLog(work / "log.jsonl")
    arguments = trainer_arguments(
        work / "asr_adapter", settings.max_steps, settings.seed, settings.save_steps
    )
    arguments |= {"warmup_steps": settings.max_steps // 10, "learning_rate": settings.learning_rate}
    arguments |= {"dataloader_num_workers": 1}  # degrades the next clips beside the training
    args = TrainingArguments(**arguments, per_device_train_batch_size=settings.per_device_train_batch_size)
    trainer = AsrAdapterTrainer(model, tower, settings, args, speech, log)
    train_from_checkpoint(trainer, log, "asr_adapter")
    return model, log


def add_lora(tower: AudioTower, lora_r: int) -> PeftModel:
    """The tower's Whisper with trainable low-rank updates on every linear layer of the encoder."""
    targets = rf".*encoder\.layers\.\d+\.({LINEAR})"
    return get_peft_model(tower.model, LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules=targets))


def save_interpolated(model: PeftModel, audio_tower: str, weight_interpolation: float, folder: Path) -> None:
    """`folder` holds the adapter in float16, its update multiplied by `weight_interpolation`.

    Weights between those before and after fine-tuning transcribe speech unlike the training data better than
    either (WiSE-FT, arXiv 2109.01903).
    """
    # PEFT would write a folder of this machine
    model.peft_config["default"].base_model_name_or_path = audio_tower
    model.save_pretrained(str(folder))
    weights = load_file(folder / WEIGHTS)
    scaled = {name: w * weight_interpolation if "lora_B" in name else w for name, w in weights.items()}
    save_file({name: w.to(torch.float16) for name, w in scaled.items()}, folder / WEIGHTS)


def mask(features: torch.Tensor, settings: AsrAdapter, rng: np.random.Generator) -> torch.Tensor:
    """Log-mel features (mel bands, 100 a second) with random bands and moments silent (SpecAugment,
    1904.08779)."""
    num_mels, num_frames = features.shape
    features, silence = features.clone(), features.min()
    for _ in range(settings.mel_masks):
        width = rng.integers(settings.mel_mask_bands + 1)
        start = rng.integers(num_mels - width + 1)
        features[start : start + width] = silence
    for _ in range(round(settings.time_masks_per_s * num_frames / FRAMES_PER_S)):
        width = rng.integers(round(settings.time_mask_s * FRAMES_PER_S) + 1)
        start = rng.integers(num_frames - width + 1)
        features[:, start : start + width] = silence
    return features


class AsrAdapterTrainer(Trainer):
    """transformers' Trainer over pairs of clean and degraded speech."""

    def __init__(
        self,
        model: PeftModel,
        tower: AudioTower,
        settings: AsrAdapter,
        args: TrainingArguments,
        speech: SpeechPairs,
        log: TrainingLog,
    ):
        self.tower, self.settings, self.speech, self.silence = tower, settings, speech, tower.silence
        super().__init__(model, args, data_collator=self.collate, train_dataset=speech, callbacks=[log])

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.speech)  # `training_order` has shuffled it

    def collate(self, pairs: list[SpeechPair]) -> dict[str, torch.Tensor]:
        """Log-mel features of both clips in one window, the decoder's input tokens and its labels."""
        seconds = window_s(max(len(pair.degraded) for pair in pairs) / SAMPLING_RATE)
        degraded = mel_features(self.tower, [pair.degraded for pair in pairs], seconds)
        masked = [mask(f, self.settings, pair.rng) for f, pair in zip(degraded, pairs, strict=True)]
        clean = mel_features(self.tower, [pair.clean for pair in pairs], seconds)
        return {"clean": clean, "degraded": torch.stack(masked)} | self.tokens([pair.text for pair in pairs])

    def tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels` (B, T) of the decoder for these transcripts."""
        tokenizer = self.tower.tokenizer
        start, end = start_ids(tokenizer), self.tower.model.config.eos_token_id
        ids = [tokenizer(f" {text}", add_special_tokens=False).input_ids for text in texts]
        length = max(map(len, ids))
        ignored = [-100] * (len(start) - 1)
        labels = [ignored + i + [end] + [-100] * (length - len(i)) for i in ids]
        return {
            "input_ids": torch.tensor([start + i + [end] * (length - len(i)) for i in ids]),
            "labels": torch.tensor(labels),
        }

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        whisper = model.get_base_model()
        with fast_products(self.args.device):
            with torch.no_grad(), model.disable_adapter():
                clean_states = encode_features(whisper.model.encoder, inputs["clean"])[0].float()
            states, _ = encode_features(whisper.model.encoder, inputs["degraded"])
            silence = self.silence.to(states).expand(len(states), -1, -1)
            decoded = whisper.model.decoder(
                input_ids=inputs["input_ids"],
                encoder_hidden_states=torch.cat([states, silence], dim=1),
                use_cache=False,
            ).last_hidden_state
            kept = inputs["labels"] != -100
            logits = whisper.proj_out(decoded[kept])
        distance = (states.float() - clean_states).pow(2).mean() / clean_states.pow(2).mean()
        cross_entropy = torch.nn.functional.cross_entropy(logits.float(), inputs["labels"][kept])
        loss = cross_entropy + self.settings.distance_weight * distance
        return (loss, {}) if return_outputs else loss
