"""The asr_adapter learn to transcribe speech in rooms, noises and lines as they transcribe it clean: LoRA on a frozen Whisper.

The loss is the cross-entropy of the words that were said, plus how far the encoder's states of the degraded clip are
from those of the untouched encoder for the clean clip, relative to their power.
"""

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer

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

LINEAR = r"self_attn\.(q|k|v|out)_proj|encoder_attn\.(q|k|v|out)_proj|fc1|fc2"
FRAMES_PER_S = 100
SORTED_BATCHES = 32  # batches whose clips are sorted together, so that like lengths share a window


def with_lora(tower: AudioTower, lora_r: int) -> PeftModel:
    """The tower's Whisper with trainable low-rank updates on every linear layer of encoder and decoder."""
    targets = rf".*(encoder|decoder)\.layers\.\d+\.({LINEAR})"
    return get_peft_model(tower.model, LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules=targets))


def training_order(lengths: list[int], num_batches: int, batch_size: int, seed: int) -> list[int]:
    """Places of the texts to train on, `num_batches * batch_size`: each pass sees all, like lengths in a batch."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < num_batches * batch_size:
        shuffled, block = rng.permutation(len(lengths)), SORTED_BATCHES * batch_size
        blocks = [
            sorted(shuffled[i : i + block], key=lengths.__getitem__) for i in range(0, len(shuffled), block)
        ]
        batches = [b[i : i + batch_size] for b in blocks for i in range(0, len(b), batch_size)]
        whole = [batch for batch in batches if len(batch) == batch_size] or batches
        order += [int(place) for i in rng.permutation(len(whole)) for place in whole[i]]
    return order[: num_batches * batch_size]


def mask(features: torch.Tensor, asr_adapter: AsrAdapter, rng: np.random.Generator) -> torch.Tensor:
    """Log-mel features (mel bands, 100 a second) with some bands and some moments silent (SpecAugment, 1904.08779)."""
    num_mels, num_frames = features.shape
    features, silence = features.clone(), features.min()
    for _ in range(asr_adapter.mel_masks):
        width = rng.integers(asr_adapter.mel_mask_bands + 1)
        start = rng.integers(num_mels - width + 1)
        features[start : start + width] = silence
    for _ in range(round(asr_adapter.time_masks_per_s * num_frames / FRAMES_PER_S)):
        width = rng.integers(round(asr_adapter.time_mask_s * FRAMES_PER_S) + 1)
        start = rng.integers(num_frames - width + 1)
        features[:, start : start + width] = silence
    return features


class AsrAdapterTrainer(Trainer):
    """transformers' Trainer over items (clean, degraded, text, rng): float32 clips at 16 kHz, what they say, chance."""

    def __init__(self, model: PeftModel, tower: AudioTower, asr_adapter: AsrAdapter, *args, **kwargs):
        self.tower, self.asr_adapter, self.silence = tower, asr_adapter, tower.silence
        super().__init__(model, *args, data_collator=self.collate, **kwargs)

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)  # `training_order` has shuffled it

    def collate(self, items: list[tuple[np.ndarray, np.ndarray, str, np.random.Generator]]) -> dict:
        """Log-mel features of both clips in one window, and the tokens that the decoder reads and shall write."""
        cleans, degradeds, said, rngs = zip(*items, strict=True)
        seconds = window_s(max(map(len, degradeds)) / SAMPLING_RATE)
        degraded = mel_features(self.tower, list(degradeds), seconds)
        start, end = start_ids(self.tower.tokenizer), self.tower.model.config.eos_token_id
        texts = [self.tower.tokenizer(f" {text}", add_special_tokens=False).input_ids for text in said]
        length = max(map(len, texts))
        return {
            "clean": mel_features(self.tower, list(cleans), seconds),
            "degraded": torch.stack(
                [mask(f, self.asr_adapter, rng) for f, rng in zip(degraded, rngs, strict=True)]
            ),
            "input_ids": torch.tensor([start + t + [end] * (length - len(t)) for t in texts]),
            "labels": torch.tensor(
                [[-100] * (len(start) - 1) + t + [end] + [-100] * (length - len(t)) for t in texts]
            ),
        }

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        whisper = model.get_base_model()
        with fast_products(self.args.device):
            with torch.no_grad(), model.disable_adapter():
                wanted = encode_features(whisper.model.encoder, inputs["clean"])[0].float()
            states, _ = encode_features(whisper.model.encoder, inputs["degraded"])
            silence = self.silence.to(states).expand(len(states), -1, -1)
            hypotheses = torch.cat([states, silence], dim=1)
            decoded = whisper.model.decoder(
                input_ids=inputs["input_ids"], encoder_hidden_states=hypotheses, use_cache=False
            ).last_hidden_state
            kept = inputs["labels"] != -100
            logits = whisper.proj_out(decoded[kept])
        distance = (states.float() - wanted).pow(2).mean() / wanted.pow(2).mean()
        words = torch.nn.functional.cross_entropy(logits.float(), inputs["labels"][kept])
        loss = words + self.asr_adapter.distance_weight * distance
        return (loss, {}) if return_outputs else loss
