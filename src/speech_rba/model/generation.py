"""Batched sampling from prompt embeddings: a shared prefix is computed once, finished rows leave the
batch."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from speech_rba.compute.device import GROUPED_ATTENTION
from speech_rba.compute.threads import map_batches

SHORT = 128  # new tokens a row; above, the table of scores is too large to keep


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of at most `SHORT` new tokens a row, each key read once for all query heads that share it;
    else sdpa.

    On a CPU in bfloat16 sdpa takes 3 ms a layer for one token of 128 rows, this 0.7 ms. The gap is wider
    backward.
    """
    batch, heads, length, width = query.shape
    if length > SHORT or (attention_mask is None and length > 1):  # None stands for causal
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    key_heads = key.shape[1]
    grouped = query.reshape(batch, key_heads, heads // key_heads * length, width)
    scores = (grouped @ key.transpose(2, 3) * scaling).view(batch, key_heads, heads // key_heads, length, -1)
    if attention_mask is not None:
        # -inf would make NaN of a padded row, which attends to nothing
        scores = scores.masked_fill(~attention_mask[:, None], torch.finfo(scores.dtype).min)
    outputs = scores.softmax(-1).flatten(2, 3) @ value
    return outputs.view(batch, heads, length, width).transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)


class BufferedLayer(DynamicLayer):
    """A key-value layer that writes into room set aside in steps; DynamicLayer copies everything at each
    token."""

    room = 64
    keys: torch.Tensor
    values: torch.Tensor

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self.buffers = (self.keys, self.values)
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if end > self.buffers[0].shape[2] or len(self.keys) != len(self.buffers[0]):
            self.buffers = (_grown(self.keys, end + self.room), _grown(self.values, end + self.room))
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values


def _grown(states: torch.Tensor, length: int) -> torch.Tensor:
    shape = (*states.shape[:2], length, states.shape[3])
    buffer = states.new_empty(shape)
    buffer[:, :, : states.shape[2]] = states
    return buffer


def pad_left(prompts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of (T_i, D) as one (B, T, D) and its attention mask (B, T)."""
    length = max(len(p) for p in prompts)
    padded = torch.stack([torch.nn.functional.pad(p, (0, 0, length - len(p), 0)) for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=padded.device)
    return padded, mask


def prefill(
    model: PreTrainedModel, prefix: torch.Tensor, prompts: list[torch.Tensor], cache: Cache
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden state (B, D) of each prompt and the attention mask (B, P + T).

    `cache` then holds `prefix` (P, D), computed once, and each prompt (T_i, D) behind it. Gradients flow if
    enabled.
    """
    prompts_BTD, mask_BT = pad_left(prompts)
    batch = len(prompts)
    if len(prefix):
        model.base_model(inputs_embeds=prefix[None], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(batch)
    mask = torch.cat([mask_BT.new_ones(batch, len(prefix)), mask_BT], dim=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, len(prefix) :]
    out = model.base_model(
        inputs_embeds=prompts_BTD,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return out.last_hidden_state[:, -1], mask


def sample(
    logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token id (B,) a row of `logits` (B, V), and its log-probability (B,) at `temperature`, before
    `top_p`.

    Temperature 0 takes the likeliest token with log-probability 0. `top_p` draws again where the likelier
    tokens alone hold more than `top_p`, which is faster than sorting the vocabulary.
    """
    if temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits), dtype=torch.float32)
    probs = (logits.float() / temperature).softmax(-1)
    tokens = _draw(probs, generator)
    left = torch.arange(len(probs), device=probs.device)
    while top_p < 1 and len(left):
        rest = probs[left]
        drawn = rest.gather(-1, tokens[left][:, None])
        left = left[torch.where(rest > drawn, rest, 0).sum(-1) > top_p]
        tokens[left] = _draw(probs[left], generator)
    return tokens, probs.gather(-1, tokens[:, None])[:, 0].log()


def _draw(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Index by inverse cumulative sum: exact, and one pass where torch.multinomial takes several."""
    totals = weights.cumsum(-1)
    uniform = torch.rand(len(weights), 1, generator=generator, device=generator.device)
    point = uniform.to(totals) * totals[:, -1:]
    return torch.searchsorted(totals, point, right=True)[:, 0].clamp_max(weights.shape[-1] - 1)


Row = list[tuple[int, float]]  # the token ids of one completion and their log-probabilities
Draw = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # `sample` with its settings


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: list[torch.Tensor],
    *,
    prefix: torch.Tensor,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos_token_id: int,
    seed: int,
    batch_size: int,
    num_generations: int = 1,
    stop_V: torch.Tensor | None = None,
    on_batch: Callable[[int], None] = lambda rows: None,
    logps: list[list[float]] | None = None,
) -> list[list[int]]:
    """Token ids after each prompt (T_i, D), `num_generations` in a row for each, ending with EOS if it came.

    A token that `stop_V` (V,) marks ends its row as EOS does, and so do the model's end tokens. Prompts of
    similar length share a batch. Every row depends on the seed and on its batch. `logps`, if given, gets the
    log-probability of each token of each row, in the distribution that it was drawn from.
    """
    assert logps is None or top_p == 1, "log-probabilities are of the whole distribution"
    generator = torch.Generator().manual_seed(seed)  # of the CPU, so that every device draws the same numbers
    draw = functools.partial(sample, temperature=temperature, top_p=top_p, generator=generator)
    stop_V = _stop_tokens(model, eos_token_id, stop_V)
    rows: list[Row] = [[] for _ in range(len(prompts) * num_generations)]

    @torch.inference_mode()
    def complete(places: list[int]) -> int:
        batch = _prefilled(model, prefix, [prompts[i] for i in places], num_generations)
        batch_rows = [rows[i * num_generations + g] for i in places for g in range(num_generations)]
        for _ in _decode(model, batch, batch_rows, draw, max_new_tokens, stop_V):
            pass
        return len(places)

    map_greedily = map_batches if temperature == 0 else map  # draws follow the order of the batches
    for num_complete in map_greedily(complete, _batches(prompts, max(1, batch_size // num_generations))):
        on_batch(num_complete)
    if logps is not None:
        logps[:] = [[logp for _, logp in row] for row in rows]
    return [[token for token, _ in row] for row in rows]


@torch.inference_mode()
def stream(
    model: PreTrainedModel,
    prompt: torch.Tensor,
    *,
    prefix: torch.Tensor,
    max_new_tokens: int,
    eos_token_id: int,
) -> Iterator[int]:
    """The token ids of the greedy answer to `prompt` (T, D), each when it is known: those of `generate`."""
    draw = functools.partial(sample, temperature=0, top_p=1, generator=torch.Generator())
    row: Row = []
    batch = _prefilled(model, prefix, [prompt], 1)
    stop_V = _stop_tokens(model, eos_token_id, None)
    for _ in _decode(model, batch, [row], draw, max_new_tokens, stop_V):
        yield row[-1][0]


@dataclass(frozen=True)
class _Batch:
    """Prompts that the model has read: their key-value cache, the logits (B, V) behind each, and their
    mask."""

    cache: Cache
    logits: torch.Tensor
    mask: torch.Tensor


def _stop_tokens(model: PreTrainedModel, eos_token_id: int, stop_V: torch.Tensor | None) -> torch.Tensor:
    """The tokens that end a row, bool (V,) on the model's device."""
    if stop_V is None:
        vocab_size = model.config.get_text_config().vocab_size
        stops = torch.zeros(vocab_size, dtype=torch.bool, device=model.device)
    else:
        stops = stop_V.to(model.device, copy=True)
    stops[[eos_token_id, *ends(model)]] = True
    return stops


def _batches(prompts: list[torch.Tensor], size: int) -> Iterator[list[int]]:
    """The places of `prompts` in batches, short prompts first."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _prefilled(
    model: PreTrainedModel, prefix: torch.Tensor, prompts: list[torch.Tensor], num_generations: int
) -> _Batch:
    """The batch of `prompts`, each `num_generations` times in a row and computed once."""
    cache = Cache(layer_class_to_replicate=BufferedLayer)
    hidden, mask = prefill(model, prefix, prompts, cache)
    logits = model.get_output_embeddings()(hidden)
    if num_generations > 1:
        cache.batch_repeat_interleave(num_generations)
        logits, mask = (x.repeat_interleave(num_generations, dim=0) for x in (logits, mask))
    return _Batch(cache, logits, mask)


def ends(model: PreTrainedModel) -> list[int]:
    """The tokens by which `model` itself ends a text."""
    eos = model.generation_config.eos_token_id
    return eos if isinstance(eos, list) else [] if eos is None else [eos]


def _decode(
    model: PreTrainedModel,
    batch: _Batch,
    rows: list[Row],
    draw: Draw,
    max_new_tokens: int,
    stop_V: torch.Tensor,
) -> Iterator[None]:
    """Each of `rows` gets its tokens and their log-probabilities until a stop or the limit, one at each step
    of the iteration.

    Finished rows leave the cache.
    """
    logits, mask = batch.logits, batch.mask
    positions = mask.sum(1, keepdim=True)
    alive = torch.ones(len(rows), dtype=torch.bool, device=mask.device)
    for step in range(max_new_tokens):
        tokens, logps = draw(logits)
        drawn = zip(tokens[alive].tolist(), logps[alive].tolist(), strict=True)
        for place, token in zip(alive.nonzero()[:, 0].tolist(), drawn, strict=True):
            rows[place].append(token)
        yield
        alive &= ~stop_V[tokens]
        if step == max_new_tokens - 1 or not alive.any():
            return
        if worth_leaving(alive):
            keep = alive.nonzero()[:, 0]
            batch.cache.batch_select_indices(keep)
            rows = [rows[i] for i in keep.tolist()]
            tokens, mask, positions, alive = tokens[keep], mask[keep], positions[keep], alive[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
        )
        logits, positions = out.logits[:, -1], positions + 1


def worth_leaving(alive: torch.Tensor) -> bool:
    """Whether enough rows have ended to copy the caches of the others: a copy costs about as much as a
    step."""
    return int(alive.sum()) <= 0.85 * len(alive)
