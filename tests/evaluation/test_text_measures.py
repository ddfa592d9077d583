"""Measures that compare the answers of one split with texts."""

import pytest
import torch

from speech_rba.evaluation.text_measures import add_prompt_retrieval, embed_once
from speech_rba.records import Answer

VECTORS = {
    "Why?": [1.0, 0.0],
    "Where?": [0.0, 1.0],
    "When?": [0.7, 0.7],
    "Here.": [0.1, 0.9],
    "Now.": [0.8, 0.6],
}


def answer(suite: str, row: str, response: str) -> Answer:
    return Answer(
        suite=suite,
        row_id=row,
        response=response,
        clip_id="c",
        system="base",
        condition="clean",
        voice="v",
        heldout_voice=False,
        snr_db=None,
        judge_hypothesis="",
        metrics={},
    )


def test_prompt_retrieval_is_one_over_the_rank_of_the_prompt():
    """Cosines of "Here.": "Where?" 0.9, "When?" 0.7, "Why?" 0.1; "Now." is nearest to "When?", 0.98."""
    embed = lambda texts: torch.tensor([VECTORS[text] for text in texts])  # noqa: E731
    answers = [
        answer("alignment", "b", "Here."),
        answer("alignment", "a", "Here."),
        answer("alignment", "c", "Now."),
        answer("other", "a", "Now."),
    ]
    add_prompt_retrieval(embed, {"a": "Why?", "b": "Where?", "c": "When?"}, answers)
    ranks = [a.metrics.get("prompt_retrieval_mrr") for a in answers]
    assert ranks == [1, pytest.approx(1 / 3), 1, None]


def test_equal_texts_are_embedded_once():
    computed: list[str] = []

    def embed(texts: list[str]) -> torch.Tensor:
        computed.extend(texts)
        return torch.tensor([VECTORS[text] for text in texts])

    cached = embed_once(embed)
    texts = ["Why?", "Here.", "Why?"]
    assert cached(texts).tolist() == cached(texts).tolist() == embed(texts).tolist()
    assert sorted(computed[:-3]) == ["Here.", "Why?"]
