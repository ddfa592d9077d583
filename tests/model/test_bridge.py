"""The bridge into a vocabulary of SentencePiece."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from speech_rba.model.audio_tower import Hypothesis
from speech_rba.model.bridge import Bridge


@pytest.fixture(scope="module")
def bridge(student) -> Bridge:
    """To a language of these words and of single bytes."""
    words = ["<unk>", "▁", "▁the", "The", "▁ri", "ver", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return Bridge(student.audio_tower.tokenizer, PreTrainedTokenizerFast(tokenizer_object=made))


def cross(bridge: Bridge, text: str) -> str:
    ids = bridge.audio(text, add_special_tokens=False).input_ids
    count = len(ids)
    hypothesis = Hypothesis(torch.tensor(ids), torch.tensor(ids)[:, None], torch.ones(count, 1), torch.zeros(count, 4),
                  torch.empty(0), 0.0)  # fmt: skip
    return bridge.language.convert_ids_to_tokens(bridge.cross(hypothesis, 1, 1.0).ids[:, 0].tolist())


def test_a_word_is_found_with_and_without_its_space(bridge):
    assert cross(bridge, "The the") == ["The", "▁the"]


def test_the_first_word_loses_its_space(bridge):
    assert cross(bridge, " The") == ["The"]


def test_part_of_a_character_crosses_byte_by_byte(bridge):
    pieces = cross(bridge, "The\u03a9")  # no word of either
    assert pieces[0] == "The" and pieces[1:] == ["<0xCE>", "<0xA9>"]
