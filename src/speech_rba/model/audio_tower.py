"""The asr_adapter: a frozen Whisper that hears a batch of clips once and keeps its posteriors, not only its 1-best."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    Cache,
    EncoderDecoderCache,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from speech_rba.assets.resolve import CONVERTED, resolve, sha256
from speech_rba.assets.ctranslate2 import convert_whisper
from speech_rba.errors import UserError
from speech_rba.model.generation import BufferedLayer, worth_leaving

SAMPLING_RATE = 16_000
MAX_SECONDS = 30  # Whisper's position table ends there
SILENCE_FRAMES = 100  # 2 s
SAMPLES_PER_FRAME = 320  # of the encoder


@dataclass(frozen=True)
class Hypothesis:
    """What the tower made of one clip: T text tokens, without the end token."""

    token_ids: torch.Tensor  # (T,) its 1-best
    top_ids: torch.Tensor  # (T, K) the likeliest tokens at each position
    top_probs: torch.Tensor  # (T, K) their posteriors, falling
    hidden: torch.Tensor  # (T, H) the decoder state that each position was read from
    attribute_features: (
        torch.Tensor
    )  # (2 H,) how it sounds: mean and deviation over time of the encoder's first layer
    mean_logprob: float  # of the 1-best, the end token included


@dataclass(frozen=True)
class AudioTower:
    model: WhisperForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    feature_extractor: WhisperFeatureExtractor

    @functools.cached_property
    def silence(self) -> torch.Tensor:
        """Encoder states (SILENCE_FRAMES, H) of the end of 30 s of silence."""
        nothing = np.zeros(SAMPLING_RATE, dtype=np.float32)
        return encode_window(self, [nothing], MAX_SECONDS, torch.float32)[0][0, -SILENCE_FRAMES:].clone()

    def text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True).strip()


def load_audio_tower(name: str, asr_adapter: Path | None) -> AudioTower:
    """The Whisper called `name`, float32, frozen; CTranslate2 weights are converted once.

    `asr_adapter` is a folder with a PEFT adapter that is merged into it.
    """
    place = resolve(name)
    if (place / "model.bin").exists() and not (place / "model.safetensors").exists():
        out = CONVERTED / sha256(place / "model.bin")[:16]
        if not (out / "config.json").exists():
            partial = out.with_name(f"{out.name}.{os.getpid()}")
            convert_whisper(place, partial)
            if not out.exists():
                os.replace(partial, out)
        place = out
    model = WhisperForConditionalGeneration.from_pretrained(place, dtype=torch.float32)
    if asr_adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(asr_adapter)).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(place)
    return AudioTower(
        model.eval().requires_grad_(False), tokenizer, WhisperFeatureExtractor.from_pretrained(place)
    )


@torch.inference_mode()
def transcribe(
    tower: AudioTower, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
) -> list[Hypothesis]:
    """What the tower hears in each clip (float32, 16 kHz mono), in order, by greedy decoding.

    Clips of like lengths share a window and are decoded together: what is heard in a clip does not depend on the
    others. The encoder, three quarters of the work, multiplies in `dtype`.

    Raises:
        UserError: a clip is empty or longer than 30 s.
    """
    for clip in clips:
        if not 0 < len(clip) <= MAX_SECONDS * SAMPLING_RATE:
            raise UserError(
                f"a clip has {len(clip) / SAMPLING_RATE:.2f} s; allowed is above 0 and at most {MAX_SECONDS} s"
            )
    windows: dict[float, list[int]] = {}
    for place, clip in enumerate(clips):
        windows.setdefault(window_s(len(clip) / SAMPLING_RATE), []).append(place)
    found: dict[int, Hypothesis] = {}
    for places in windows.values():
        hypotheses = _transcribe_window(tower, [clips[i] for i in places], top_k, max_tokens, dtype)
        found |= dict(zip(places, hypotheses, strict=True))
    return [found[place] for place in range(len(clips))]


def _transcribe_window(
    tower: AudioTower, clips: list[np.ndarray], top_k: int, max_tokens: int, dtype: torch.dtype
) -> list[Hypothesis]:
    """What the tower hears in each of these clips, which share a window."""
    states, attribute_features = encode(tower, clips, dtype)
    start = start_ids(tower.tokenizer)
    cache = EncoderDecoderCache(*(Cache(layer_class_to_replicate=BufferedLayer) for _ in range(2)))
    found = _Positions(len(clips))
    ids, rows = torch.tensor([start] * len(clips)), torch.arange(len(clips))
    alive = torch.ones(len(clips), dtype=torch.bool)
    for step in range(max_tokens):
        out = tower.model.model.decoder(
            input_ids=ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        hidden = out.last_hidden_state[alive, -1]
        logits = suppress(tower, tower.model.proj_out(hidden), first=step == 0)
        ids = ids[:, -1:].clone()
        ids[alive, 0] = found.add(rows[alive], hidden, logits, top_k, tower.model.config.eos_token_id)
        alive &= ids[:, 0] != tower.model.config.eos_token_id
        if not alive.any():
            break
        if worth_leaving(alive):
            keep = alive.nonzero()[:, 0]
            cache.self_attention_cache.batch_select_indices(keep)
            cache.cross_attention_cache.batch_select_indices(keep)
            ids, rows, states, alive = ids[keep], rows[keep], states[keep], alive[keep]
    return found.to_hypotheses(attribute_features)


class _Positions:
    """Collects, row by row, what each decoding step found."""

    def __init__(self, num_rows: int):
        self.steps = [[] for _ in range(num_rows)]
        self.logprobs = [[] for _ in range(num_rows)]

    def add(self, rows, hidden, logits, top_k, end_id) -> torch.Tensor:
        logprobs = logits.log_softmax(-1)
        best, ids = logprobs.max(-1)
        # the end token is no alternative for a word
        probs, top = logprobs.index_fill(-1, torch.tensor([end_id]), -torch.inf).exp().topk(top_k, dim=-1)
        for i, row in enumerate(rows.tolist()):
            self.logprobs[row].append(best[i].item())
            if ids[i] != end_id:
                self.steps[row].append((ids[i], top[i], probs[i], hidden[i]))
        self.shapes = (top[0, :], hidden[0, :])
        return ids

    def to_hypotheses(self, attribute_features: torch.Tensor) -> list[Hypothesis]:
        top, hidden = self.shapes
        nothing = (
            torch.empty(0, dtype=torch.long),
            top.new_empty(0, len(top)),
            hidden.new_empty(0, len(top)),
            hidden.new_empty(0, len(hidden)),
        )
        fields = [
            [torch.stack(f) for f in zip(*steps, strict=True)] if steps else nothing for steps in self.steps
        ]
        rows = zip(fields, attribute_features, self.logprobs, strict=True)
        return [Hypothesis(*f, a, mean_logprob=float(np.mean(p))) for f, a, p in rows]


def encode(
    tower: AudioTower, clips: list[np.ndarray], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder states (B, frames, H) of a window just longer than the clips, and of silence after it; attribute_features.

    Whisper pads every clip to 30 s. Cut windows alone cost a tenth but never end: the decoder waits for the
    silence (word error rate 0.92 on clean questions). With its states appended it is 0.003, that of 30 s windows.
    """
    states, first = encode_window(tower, clips, window_s(max(len(c) for c in clips) / SAMPLING_RATE), dtype)
    frames = [
        states_of[: max(2, len(clip) // SAMPLES_PER_FRAME)]
        for states_of, clip in zip(first, clips, strict=True)
    ]
    attribute_features = torch.stack([torch.cat([f.mean(0), f.std(0)]) for f in frames])
    return torch.cat([states, tower.silence.expand(len(clips), -1, -1)], dim=1), attribute_features


def encode_window(
    tower: AudioTower, clips: list[np.ndarray], seconds: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `encode_features`, float32, of clips padded to `seconds`, with Whisper's position table cut."""
    features = mel_features(tower, clips, seconds)
    with torch.autocast(features.device.type, dtype, enabled=dtype != torch.float32):
        states, first = encode_features(tower.model.model.encoder, features)
    return states.float(), first.float()


def mel_features(tower: AudioTower, clips: list[np.ndarray], seconds: float) -> torch.Tensor:
    """Whisper's log-mel features (B, mel bands, 100 a second) of clips padded to `seconds`."""
    return tower.feature_extractor(
        clips,
        sampling_rate=SAMPLING_RATE,
        return_tensors="pt",
        padding="max_length",
        max_length=int(seconds * SAMPLING_RATE),
        truncation=True,
    ).input_features


def encode_features(encoder: torch.nn.Module, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The states (B, 50 a second, H) of the encoder's last layer and of its first, for log-mel features of any length.

    The first still knows who speaks, how and where; the last was taught to transcribe a word alike from everyone.
    """
    x = torch.nn.functional.gelu(encoder.conv1(features))
    x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    x = first = encoder.layers[0](x, None)
    for layer in encoder.layers[1:]:
        x = layer(x, None)
    return encoder.layer_norm(x), first


def window_s(clip_s: float) -> float:
    """Seconds of the window in which a clip of `clip_s` is hypotheses: whole seconds with at least one of silence."""
    return min(MAX_SECONDS, int(clip_s) + 2)


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that ask for an English transcript without time stamps."""
    # an English-only Whisper knows the language tokens too, but was trained without them
    english_only = tokenizer.convert_tokens_to_ids("<|endoftext|>") == 50256
    names = (
        ["<|startoftranscript|>"]
        + ([] if english_only else ["<|en|>", "<|transcribe|>"])
        + ["<|notimestamps|>"]
    )
    return tokenizer.convert_tokens_to_ids(names)


def suppress(tower: AudioTower, logits: torch.Tensor, first: bool) -> torch.Tensor:
    """`logits` without the tokens that are no speech, and at the `first` position without the end."""
    config = tower.model.generation_config
    banned = list(config.suppress_tokens or []) + (list(config.begin_suppress_tokens or []) if first else [])
    return logits.index_fill(-1, torch.tensor(banned, dtype=torch.long), -torch.inf)
