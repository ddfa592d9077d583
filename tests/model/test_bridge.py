"""The bridge into a vocabulary of SentencePiece."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.bridge import Bridge


@pytest.fixture(scope="module")
def bridge(audio_tower) -> Bridge:
    """To a language of these words and of single bytes."""
    words = ["<unk>", "▁", "▁the", "The", "▁ri", "ver", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return Bridge(audio_tower.tokenizer, PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def cross(bridge: Bridge, text: str) -> str:
    ids = bridge.audio(text, add_special_tokens=False).input_ids
    best, hidden = torch.tensor(ids), torch.zeros(len(ids), 4)
    hypothesis = Hypothesis(best, best[:, None], torch.ones(len(ids), 1), hidden, torch.empty(0), 0.0)
    return bridge.language.convert_ids_to_tokens(bridge.cross(hypothesis, 1, 1.0).ids[:, 0].tolist())


def test_a_word_is_found_with_and_without_its_space(bridge):
    assert cross(bridge, "The the") == ["The", "▁the"]


def test_the_first_word_loses_its_space(bridge):
    assert cross(bridge, " The") == ["The"]


def test_part_of_a_character_crosses_byte_by_byte(bridge):
    pieces = cross(bridge, "The\u03a9")  # no word of either
    assert pieces[0] == "The" and pieces[1:] == ["<0xCE>", "<0xA9>"]
