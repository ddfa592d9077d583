from speech_rba.data.leakage import ngrams, overlaps


def test_ngrams_are_all_runs_of_n_words():
    assert ngrams(["a", "b", "c"], 2) == {("a", "b"), ("b", "c")}
    assert ngrams(["a"], 2) == set()


def test_texts_overlap_by_consecutive_words_or_as_a_whole():
    questions = ["Which two rivers meet in the city of Lyon?", "Who wrote Hamlet?", "?"]
    texts = [
        "Tell me which 2 rivers meet in the town",  # 5 words in a row: which 2 rivers meet in
        "Which two rivers are long",  # 3
        "Who wrote Hamlet",  # the whole short question
        "Say who wrote Hamlet",  # contains it only
        "",
    ]
    assert overlaps(texts, questions, 5) == [True, False, True, False, False]
    assert overlaps(texts, [], 5) == [False] * 5
