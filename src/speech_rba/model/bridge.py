"""The vocabulary bridge: from the audio tower's token posteriors to weighted tokens of the language model.

The audio tower's vocabulary is byte-level BPE. Where the language model's is too, most tokens of one are,
byte for byte, a token of the other; in one of SentencePiece most are by their text. The rest are cut as the
language model's tokenizer cuts their text.
"""

import functools
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from speech_rba.model.audio_tower import SPACE, Hypothesis

UNDERLINE = "▁"  # how SentencePiece does
BYTES = {char: byte for byte, char in bytes_to_unicode().items()}  # as byte-level BPE writes them


@dataclass(frozen=True)
class SoftTokens:
    """A prompt of T positions, each a mixture of K tokens of the language model, and its attribute features.

    The embedding of a position is the weighted mean of its tokens' embeddings plus the projected `hidden`.
    The tensors are on the CPU: `prompt_embeds` moves them to the model.
    """

    ids: torch.Tensor  # (T, K)
    weights: torch.Tensor  # (T, K), each row sums to 1
    hidden: torch.Tensor  # (T, H)
    attribute_features: torch.Tensor  # (2 H,), as Hypothesis's; (0,) for text

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def asr_uncertainty(self) -> float:
        """The expected number of wrong tokens, by the posteriors: 0 for text and for a prompt without
        positions."""
        return (1 - self.weights.max(1).values).sum().item() if len(self) else 0.0


class Bridge:
    """From a byte-level BPE tokenizer to any of these; special tokens of the audio side cross to nothing."""

    def __init__(self, audio: PreTrainedTokenizerBase, language: PreTrainedTokenizerBase):
        self.audio, self.language, self.vocabulary = audio, language, language.get_vocab()
        self.by_bytes = SPACE in self.vocabulary
        self.pieces = functools.cache(self._pieces)

    def _pieces(self, token: int, first: bool) -> list[int]:
        """The language model's ids for one token of the audio tower; the `first` one of a text loses its
        space."""
        piece, text = str(self.audio.convert_ids_to_tokens(token)), str(self.audio.decode([token]))
        if first:
            piece, text = piece.removeprefix(SPACE), text.removeprefix(" ")
        if not piece or piece.startswith("<|"):
            return []
        whole = piece if self.by_bytes else text.replace(" ", UNDERLINE)
        if whole in self.vocabulary:
            return [self.vocabulary[whole]]
        if (
            "\ufffd" in text
        ):  # part of a character: byte by byte; bytes that no UTF-8 text holds have no token
            parts = piece if self.by_bytes else [f"<0x{BYTES[char]:02X}>" for char in piece]
            return [self.vocabulary[part] for part in parts if part in self.vocabulary]
        return self.language(text, add_special_tokens=False).input_ids

    def cross(self, hypothesis: Hypothesis, top_k: int, temperature: float) -> SoftTokens:
        """Soft tokens of a hypothesis.

        A 1-best token that is one token of the language model becomes the mixture of those of its `top_k`
        alternatives that are one token too; one that is several becomes those, unmixed.
        """
        ids, weights, source = [], [], []
        probs = hypothesis.top_probs[:, :top_k].double() ** (1 / temperature)
        for t, best in enumerate(hypothesis.token_ids.tolist()):
            pieces = self.pieces(best, t == 0)
            if len(pieces) == 1:
                mix = self._mixture(t == 0, hypothesis.top_ids[t, :top_k].tolist(), probs[t].tolist())
                ids.append([i for i, _ in mix])
                weights.append([w for _, w in mix])
            else:
                ids += [[p] for p in pieces]
                weights += [[1.0] for _ in pieces]
            source += [t] * len(pieces)
        return _stack(ids, weights, hypothesis.hidden[source], hypothesis.attribute_features, top_k)

    def _mixture(self, first: bool, alternatives: list[int], probs: list[float]) -> list[tuple[int, float]]:
        crossed = [(self.pieces(a, first), p) for a, p in zip(alternatives, probs, strict=True)]
        single = [(pieces[0], p) for pieces, p in crossed if len(pieces) == 1]
        total = sum(p for _, p in single)
        return [(i, p / total) for i, p in single]


def _stack(
    ids: list[list[int]],
    weights: list[list[float]],
    hidden: torch.Tensor,
    attribute_features: torch.Tensor,
    top_k: int,
) -> SoftTokens:
    padded_ids = [row + [0] * (top_k - len(row)) for row in ids]
    padded_weights = [row + [0.0] * (top_k - len(row)) for row in weights]
    return SoftTokens(
        torch.tensor(padded_ids, dtype=torch.long).reshape(-1, top_k),
        torch.tensor(padded_weights).reshape(-1, top_k),
        hidden.float(),
        attribute_features,
    )


def one_hot_tokens(ids: list[int], hidden_size: int) -> SoftTokens:
    """Plain text as soft tokens: each position is one token, without decoder states or attribute features."""
    return SoftTokens(
        torch.tensor(ids, dtype=torch.long)[:, None],
        torch.ones(len(ids), 1),
        torch.zeros(len(ids), hidden_size),
        torch.empty(0),
    )
