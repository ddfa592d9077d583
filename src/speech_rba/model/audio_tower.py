"""The audio tower: a frozen Whisper that transcribes a clip once and keeps its posteriors beside its
1-best."""

import functools
import hashlib
import math
import os
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    Cache,
    EncoderDecoderCache,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speech_rba.assets.converted import load_converted
from speech_rba.assets.ctranslate2 import convert_whisper
from speech_rba.assets.resolve import CONVERTED, keep, remembered_sha256, resolve, sha256
from speech_rba.compute.device import device
from speech_rba.errors import UserError
from speech_rba.model.generation import BufferedLayer, worth_leaving
from speech_rba.model.lora import merge_lora
from speech_rba.model.no_speech import loop_start, no_speech_reason

SAMPLING_RATE = 16_000
MAX_SECONDS = 30  # Whisper's position table ends there
# Shorter windows loop: words wrong of 100 spoken digits with 4 s 75 %, with 6 s 21 %, with 30 s 43 %
MIN_WINDOW_S = 6
SILENCE_FRAMES = 100  # 2 s
SAMPLES_PER_FRAME = 320  # of the encoder
UNCERTAIN = 0.5  # probability of a word
SPACE = "Ġ"  # how byte-level BPE writes a leading space


@dataclass(frozen=True)
class Hypothesis:
    """What the tower transcribes of one clip: T text tokens, without the end token. Its tensors are on the
    CPU."""

    token_ids: torch.Tensor  # (T,) its 1-best
    top_ids: torch.Tensor  # (T, K) the likeliest tokens at each position
    top_probs: torch.Tensor  # (T, K) their posteriors, falling
    hidden: torch.Tensor  # (T, H) the decoder state that gave each position
    attribute_features: torch.Tensor  # (2 H,) mean and deviation over time of the encoder's first layer
    mean_logprob: float  # of the 1-best, the end token included
    no_speech: str | None = None  # why the clip is set apart, and then T is 0: one of no_speech.REASONS
    loop_cut: bool = False  # whether the decoding repeated itself and was cut there


@dataclass(frozen=True)
class Word:
    """A word of a transcript; its probability is the product of its tokens' posteriors."""

    text: str
    probability: float

    @property
    def uncertain(self) -> bool:
        """Whether a reader should see that it may be wrong."""
        return self.probability < UNCERTAIN


@dataclass(frozen=True)
class AudioTower:
    model: WhisperForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    feature_extractor: WhisperFeatureExtractor

    @functools.cached_property
    def silence(self) -> torch.Tensor:
        """Encoder states (SILENCE_FRAMES, H) of the end of 30 s of silence."""
        zeros = np.zeros(SAMPLING_RATE, dtype=np.float32)
        return encode_window(self, [zeros], MAX_SECONDS, torch.float32)[0][0, -SILENCE_FRAMES:].clone()

    @property
    def end_id(self) -> int:
        """The token that ends a transcript."""
        end_id = self.model.config.eos_token_id
        assert isinstance(end_id, int)
        return end_id

    def text(self, token_ids: list[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    def words(self, hypothesis: Hypothesis) -> tuple[Word, ...]:
        """The words of a hypothesis, in order; a punctuation mark belongs to the word before it."""
        token_ids, probs = hypothesis.token_ids.tolist(), hypothesis.top_probs[:, 0].tolist()
        pieces = self.tokenizer.convert_ids_to_tokens(token_ids)
        starts = [t for t, piece in enumerate(pieces) if t == 0 or piece.startswith(SPACE)]
        spans = [slice(start, end) for start, end in pairwise([*starts, len(token_ids)])]
        words = [Word(self.text(token_ids[span]), math.prod(probs[span])) for span in spans]
        return tuple(word for word in words if word.text)


def load_audio_tower(name: str, asr_adapter: Path | None) -> AudioTower:
    """The Whisper called `name`, float32, frozen, on the device of compute/device.py.

    `asr_adapter` is a folder with a LoRA adapter that is merged into it.
    """
    folder = whisper_folder(name)
    if folder.parent == CONVERTED:
        model = load_converted(AutoModelForSpeechSeq2Seq, folder, torch.float32)
    else:
        model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, WhisperForConditionalGeneration)
    if asr_adapter:
        merge_lora(model, asr_adapter)  # on the CPU, so that the weights are the same on every machine
    tokenizer, extractor = (
        AutoTokenizer.from_pretrained(folder),
        WhisperFeatureExtractor.from_pretrained(folder),
    )
    tower = AudioTower(model.eval().requires_grad_(False).to(device()), tokenizer, extractor)
    if folder.parent == CONVERTED:
        _remember_silence(tower, folder.name, asr_adapter)
    return tower


def _remember_silence(tower: AudioTower, weights: str, asr_adapter: Path | None) -> None:
    """`tower.silence` comes from a file, which is made once for these weights, this code and this device.

    To encode it takes 0.6 s, as long as a transcript.
    """
    adapter = remembered_sha256(asr_adapter / "adapter_model.safetensors") if asr_adapter else ""
    parts = (weights, adapter, sha256(Path(__file__)), torch.__version__, tower.model.device.type)
    path = CONVERTED / "silence" / hashlib.sha256(repr(parts).encode()).hexdigest()
    if not path.exists():
        keep(path, save({"states": tower.silence.cpu().contiguous()}))
    else:
        tower.__dict__["silence"] = load(path.read_bytes())["states"].to(tower.model.device)


def whisper_folder(name: str) -> Path:
    """The folder of the Whisper called `name` in a form that transformers reads; CTranslate2 weights are
    converted once."""
    folder = resolve(name)
    if not (folder / "model.bin").exists() or (folder / "model.safetensors").exists():
        return folder
    out = CONVERTED / remembered_sha256(folder / "model.bin")[:16]
    if not (out / "config.json").exists():
        partial = out.with_name(f"{out.name}.{os.getpid()}")
        convert_whisper(folder, partial)
        if not out.exists():
            os.replace(partial, out)
    return out


@dataclass(frozen=True)
class Decoding:
    """How clips are transcribed: `top_k` alternatives a position, at most `max_tokens` of them, and the
    dtype in which the encoder multiplies."""

    top_k: int
    max_tokens: int
    dtype: torch.dtype


@torch.inference_mode()
def transcribe(
    tower: AudioTower, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
) -> list[Hypothesis]:
    """The hypothesis of each clip (float32, 16 kHz mono), in order, by greedy decoding.

    Clips of similar lengths share a window and are decoded together: a hypothesis does not depend on the
    other clips. The encoder, three quarters of the work, multiplies in `dtype`. A clip without speech has a
    hypothesis without tokens, which says why.

    Raises:
        UserError: a clip is empty or longer than 30 s.
    """
    decoding = Decoding(top_k, max_tokens, dtype)
    windows: dict[float, list[int]] = {}
    for place, clip in enumerate(clips):
        check_length(clip)
        windows.setdefault(window_s(len(clip) / SAMPLING_RATE), []).append(place)
    by_place: dict[int, Hypothesis] = {}
    for places in windows.values():
        hypotheses = _transcribe_window(tower, [clips[i] for i in places], decoding)
        by_place |= dict(zip(places, hypotheses, strict=True))
    return [set_apart(by_place[place], clip) for place, clip in enumerate(clips)]


def set_apart(hypothesis: Hypothesis, clip: np.ndarray) -> Hypothesis:
    """The hypothesis of a clip with speech; for one without, its reason in place of its tokens."""
    reason = no_speech_reason(clip, hypothesis.mean_logprob, len(hypothesis.token_ids))
    if reason is None:
        return hypothesis
    token_ids, top_ids, top_probs, hidden = (
        x[:0] for x in (hypothesis.token_ids, hypothesis.top_ids, hypothesis.top_probs, hypothesis.hidden)
    )
    return replace(
        hypothesis,
        token_ids=token_ids,
        top_ids=top_ids,
        top_probs=top_probs,
        hidden=hidden,
        no_speech=reason,
    )


def check_length(clip: np.ndarray) -> None:
    """Raises UserError for a clip that is empty or longer than 30 s."""
    if not 0 < len(clip) <= MAX_SECONDS * SAMPLING_RATE:
        raise UserError(
            f"a clip has {len(clip) / SAMPLING_RATE:.2f} s; allowed is above 0 and at most {MAX_SECONDS} s"
        )


def _transcribe_window(tower: AudioTower, clips: list[np.ndarray], decoding: Decoding) -> list[Hypothesis]:
    """The hypotheses of clips that share a window."""
    states, attribute_features = encode(tower, clips, decoding.dtype)
    cache = EncoderDecoderCache(*(Cache(layer_class_to_replicate=BufferedLayer) for _ in range(2)))
    transcripts = [_Transcript() for _ in clips]
    ids = torch.tensor([start_ids(tower.tokenizer)] * len(clips), device=states.device)
    rows = torch.arange(len(clips), device=states.device)
    alive = torch.ones(len(clips), dtype=torch.bool, device=states.device)
    for step in range(decoding.max_tokens):
        out = tower.model.model.decoder(
            input_ids=ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        hidden = out.last_hidden_state[alive, -1]
        logits = suppress(tower, tower.model.proj_out(hidden), first=step == 0)
        ids = ids[:, -1:].clone()
        ids[alive, 0] = _add_step(
            transcripts, rows[alive].tolist(), hidden, logits, decoding.top_k, tower.end_id
        )
        alive &= ids[:, 0] != tower.end_id
        if not alive.any():
            break
        if worth_leaving(alive):
            keep = alive.nonzero()[:, 0]
            cache.self_attention_cache.batch_select_indices(keep)
            cache.cross_attention_cache.batch_select_indices(keep)
            ids, rows, states, alive = ids[keep], rows[keep], states[keep], alive[keep]
    empty = _empty_fields(decoding.top_k, tower.model.config.d_model)
    return [t.to_hypothesis(f, empty) for t, f in zip(transcripts, attribute_features.cpu(), strict=True)]


@dataclass
class _Transcript:
    """One clip's positions, as (token id, top ids, top probs, hidden state), and the token and the
    log-probability of each step."""

    positions: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    loop_cut: bool = False

    def add(self, token_id: int, logprob: float, position: tuple[torch.Tensor, ...]) -> None:
        """Holds a position more; where it completes a loop, none after the loop's first round."""
        self.positions.append(position)
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if (start := loop_start(self.token_ids)) is not None:
            self.loop_cut = True
            for column in (self.positions, self.token_ids, self.logprobs):
                del column[start:]

    def to_hypothesis(self, attribute_features: torch.Tensor, empty: tuple[torch.Tensor, ...]) -> Hypothesis:
        fields = [torch.stack(column) for column in zip(*self.positions, strict=True)]
        token_ids, top_ids, top_probs, hidden = fields or empty
        mean_logprob = float(np.mean(self.logprobs))
        return Hypothesis(
            token_ids,
            top_ids,
            top_probs,
            hidden,
            attribute_features,
            mean_logprob,
            loop_cut=self.loop_cut,
        )


def _empty_fields(top_k: int, width: int) -> tuple[torch.Tensor, ...]:
    """The fields of a hypothesis without a position."""
    ids = torch.empty(0, dtype=torch.long)
    return ids, ids.new_empty(0, top_k), torch.empty(0, top_k), torch.empty(0, width)


def _add_step(
    transcripts: list[_Transcript],
    rows: list[int],
    hidden: torch.Tensor,
    logits: torch.Tensor,
    top_k: int,
    end_id: int,
) -> torch.Tensor:
    """The likeliest token (N,) of each of N `rows`, which its transcript now holds, with its alternatives;
    the end token for a row that repeats itself."""
    logprobs = logits.log_softmax(-1)
    best_logprobs, ids = logprobs.max(-1)
    # the end token is no alternative for a word
    probs, top_ids = _without(logprobs, [end_id]).exp().topk(top_k, dim=-1)
    columns = [x.cpu() for x in (ids, top_ids, probs, hidden)]
    steps = zip(rows, best_logprobs.tolist(), ids.tolist(), zip(*columns, strict=True), strict=True)
    for place, (row, logprob, token_id, position) in enumerate(steps):
        if token_id == end_id:
            transcripts[row].logprobs.append(logprob)
            continue
        transcripts[row].add(token_id, logprob, position)
        if transcripts[row].loop_cut:
            ids[place] = end_id
    return ids


def _without(logits: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    """`logits` (N, V) in which these tokens have no probability."""
    banned = torch.tensor(token_ids, dtype=torch.long, device=logits.device)
    return logits.index_fill(-1, banned, -torch.inf)


def encode(
    tower: AudioTower, clips: list[np.ndarray], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder states (B, frames, H) of a window just longer than the clips and of silence after it, and the
    attribute features (B, 2 H).

    Whisper pads every clip to 30 s. A cut window alone costs a tenth, but its decoding does not end: the
    decoder waits for silence (word error rate 0.92 on clean questions). With the states of silence appended
    it is 0.003, as with 30 s windows.
    """
    seconds = window_s(max(len(c) for c in clips) / SAMPLING_RATE)
    states, first_layer = encode_window(tower, clips, seconds, dtype)
    frames = [
        layer_states[: max(2, len(clip) // SAMPLES_PER_FRAME)]
        for layer_states, clip in zip(first_layer, clips, strict=True)
    ]
    attribute_features = torch.stack([torch.cat([f.mean(0), f.std(0)]) for f in frames])
    return torch.cat([states, tower.silence.expand(len(clips), -1, -1)], dim=1), attribute_features


def encode_window(
    tower: AudioTower, clips: list[np.ndarray], seconds: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `encode_features`, float32, of clips padded to `seconds`, with Whisper's position table cut."""
    features = mel_features(tower, clips, seconds).to(tower.model.device)
    with torch.autocast(features.device.type, dtype, enabled=dtype != torch.float32):
        states, first_layer = encode_features(tower.model.model.encoder, features)
    return states.float(), first_layer.float()


def mel_features(tower: AudioTower, clips: list[np.ndarray], seconds: float) -> torch.Tensor:
    """Whisper's log-mel features (B, mel bands, 100 a second) of clips padded to `seconds`, on the CPU."""
    return tower.feature_extractor(
        clips,
        sampling_rate=SAMPLING_RATE,
        return_tensors="pt",
        padding="max_length",
        max_length=int(seconds * SAMPLING_RATE),
        truncation=True,
    ).input_features


def encode_features(encoder: WhisperEncoder, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The states (B, 50 a second, H) of the encoder's last layer and of its first, for log-mel features of
    any length.

    The first layer's states still depend on voice, room and line. The last layer's are trained to give the
    same words for all of them.
    """
    x = torch.nn.functional.gelu(encoder.conv1(features))
    x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    x = first = encoder.layers[0](x, None)
    for layer in encoder.layers[1:]:
        x = layer(x, None)
    return encoder.layer_norm(x), first


def window_s(clip_s: float) -> float:
    """Seconds of the window in which a clip of `clip_s` is transcribed: whole seconds, so that clips share
    one, with at least one of silence."""
    return min(MAX_SECONDS, max(MIN_WINDOW_S, int(clip_s) + 2))


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that ask for an English transcript without time stamps."""
    # an English-only Whisper knows the language tokens too, but was trained without them
    english_only = tokenizer.convert_tokens_to_ids("<|endoftext|>") == 50256
    language = [] if english_only else ["<|en|>", "<|transcribe|>"]
    ids = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", *language, "<|notimestamps|>"])
    assert isinstance(ids, list)
    return ids


def suppress(tower: AudioTower, logits: torch.Tensor, first: bool) -> torch.Tensor:
    """`logits` without the tokens that are no speech, and at the `first` position without the end."""
    config = tower.model.generation_config
    banned = list(config.suppress_tokens or []) + (list(config.begin_suppress_tokens or []) if first else [])
    return _without(logits, banned)
