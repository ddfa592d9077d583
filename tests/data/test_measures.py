import numpy as np
import pytest

from speech_rba.data.measures import measure, normalize, silence_share, word_error_rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Wake me at two thirty.", "wake me at 230"),
        ("It's Dr. Smith's colour!", "it is doctor smith is colour"),
        ("I have three hundred and five", "i have 305"),
        ("Hmm?!", ""),
    ],
)
def test_normalized_text_is_lower_case_without_punctuation(text, words):
    assert normalize(text) == words


def test_word_error_rate_is_over_the_corpus():
    # 1 substitution and 1 deletion in 2 + 6 words: 2 / 8, not the mean of 1/2 and 1/6
    assert (
        word_error_rate(["Good day.", "tell me the time in Rome"], ["good night", "Tell me the time, Rome"])
        == 0.25
    )
    assert word_error_rate([], []) == 0.0
    assert word_error_rate(["hmm"], ["yes it is"]) == 3.0


def test_measures_of_a_square_wave():
    audio = np.tile(np.float32([0.5, -0.5]), 16000)  # 2 s: RMS and peak 0.5
    audio[:320] = 1.0  # 20 ms at full scale
    feature = measure(audio, "Open the two windows.", "open the 2 doors", "open the doors", -0.25, "c1")
    assert feature.duration_s == 2.0
    assert feature.rms_db == pytest.approx(10 * np.log10(0.99 * 0.25 + 0.01))
    assert feature.peak == 1.0
    assert feature.clipped_share == pytest.approx(0.01)
    assert feature.silence_share == 0.0
    assert feature.words_per_s == 2.0
    assert feature.wer == 0.25
    assert (feature.clip_id, feature.judge_hypothesis, feature.mean_logprob) == (
        "c1",
        "open the 2 doors",
        -0.25,
    )
    assert feature.student_hypothesis == "open the doors"


def test_silence_is_relative_to_the_loudest_frame():
    loud, soft = np.full(1600, 0.5), np.full(1600, 0.5 / 200)  # 46 dB apart, soft is -52 dBFS
    assert silence_share(np.concatenate([loud, soft, soft, soft])) == 0.75
    assert silence_share(soft) == 0.0
    assert silence_share(np.full(1600, 0.0005)) == 1.0  # -66 dBFS
    assert silence_share(np.zeros(0)) == 1.0


def test_measures_of_no_samples_and_of_digital_silence_are_finite():
    empty = measure(np.zeros(0, np.float32), "", "", "", 0.0, "c1")
    assert (empty.duration_s, empty.rms_db, empty.words_per_s, empty.wer) == (0.0, -120.0, 0.0, 0.0)
    assert measure(np.zeros(16000, np.float32), "a word", "", "", 0.0, "c1").rms_db == -120.0
