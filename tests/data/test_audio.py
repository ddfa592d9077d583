import numpy as np
import pytest
import soundfile

from speech_rba.data.audio import read_audio


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_any_rate_and_format_becomes_mono_16_khz(tmp_path, name, rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(tmp_path / name, np.stack([tone, np.zeros(rate)], axis=1), rate)
    audio = read_audio(tmp_path / name)
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert abs(len(audio) - 16000) <= 1
    assert np.abs(np.fft.rfft(audio)).argmax() == pytest.approx(440, abs=1)  # one second: bins are 1 Hz
    assert np.abs(audio[1000:-1000]).max() == pytest.approx(0.25, abs=0.02)  # the mean of tone and silence


def test_no_audio_names_the_file(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    for name in ["text.wav", "missing.flac"]:
        with pytest.raises(ValueError, match=name):
            read_audio(tmp_path / name)


def test_empty_and_broken_samples_are_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 44100)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="no samples"):
        read_audio(tmp_path / "empty.wav")
    with pytest.raises(ValueError, match="NaN"):
        read_audio(tmp_path / "nan.wav")
