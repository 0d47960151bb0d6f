"""WAV folders written by soundfile, whole and broken."""

import numpy as np
import pytest

from edgessl.data.audio import open_audio, open_wavs
from edgessl.data.source import Source
from edgessl.data.spectrogram import LogMel
from edgessl.errors import ConfigError, DataError, InputError

soundfile = pytest.importorskip("soundfile")
RNG = np.random.default_rng(0)


def write(path, frames, channels=1, rate=8000, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = RNG.uniform(-0.9, 0.9, (frames, channels)).astype(np.float32)
    soundfile.write(path, x, rate, subtype=subtype)
    return x.T


def test_windows_of_labelled_files(tmp_path):
    yes = write(tmp_path / "yes" / "a.wav", 1000, 2)
    no = write(tmp_path / "no" / "b.WAV", 450, 2)
    source = open_wavs(tmp_path, window=200, stride=100)
    assert isinstance(source, Source)
    assert (source.kind, source.shape, source.rate, len(source)) == ("signal", (2, 200), 8000, 3 + 9)
    assert source.classes == ("no", "yes")
    assert source.labels.tolist() == [0] * 3 + [1] * 9
    expected = [no[:, s : s + 200] for s in (0, 100, 200)]
    expected += [yes[:, s : s + 200] for s in range(0, 900, 100)]
    taken = source.take(np.arange(12))
    assert (taken.dtype, taken.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(source.take(np.array([11, 0, 11, 5])), [expected[i] for i in (11, 0, 11, 5)])
    np.testing.assert_allclose(source.timestamps[[0, 2, 3, 11]], [0, 0.025, 0, 0.1])
    with pytest.raises(InputError):
        source.take(np.array([12]))


def test_pcm16_is_scaled_to_full_scale(tmp_path):
    x = np.array([-32768, -1, 0, 1, 32767], np.int16)
    soundfile.write(tmp_path / "a.wav", x, 8000, subtype="PCM_16")
    taken = open_wavs(tmp_path, window=5).take(np.array([0]))
    np.testing.assert_array_equal(taken[0, 0], x.astype(np.float32) / 32768)


@pytest.mark.parametrize(("source_rate", "rate"), [(16000, 8000), (8000, 16000), (11025, 8000), (8000, 11025)])
def test_resampled_windows_equal_those_of_the_whole_file_resampled(tmp_path, source_rate, rate):
    signal = pytest.importorskip("scipy.signal")
    x = write(tmp_path / "a.wav", 5000, 2, source_rate)
    up, down = rate // np.gcd(rate, source_rate), source_rate // np.gcd(rate, source_rate)
    whole = signal.resample_poly(x.astype(np.float64), up, down, axis=1)
    source = open_wavs(tmp_path, window=300, stride=170, rate=rate, resample=True)
    assert len(source) == 1 + (whole.shape[1] - 300) // 170
    expected = np.stack([whole[:, s : s + 300] for s in source.starts])
    np.testing.assert_allclose(source.take(np.arange(len(source))), expected, atol=1e-6)


def test_another_rate_is_refused_until_resampling_is_asked_for(tmp_path):
    write(tmp_path / "a.wav", 500, rate=8000)
    write(tmp_path / "b.wav", 500, rate=16000)
    with pytest.raises(DataError, match="expected 8000 samples per second, found 16000") as caught:
        open_wavs(tmp_path, window=100)
    assert str(tmp_path / "b.wav") in str(caught.value)
    assert len(open_wavs(tmp_path, window=100, resample=True)) == 5 + 2


def test_a_short_file_is_refused_until_padding_is_asked_for(tmp_path):
    x = write(tmp_path / "a.wav", 70)
    with pytest.raises(DataError, match="70 samples are less than one window of 100") as caught:
        open_wavs(tmp_path, window=100)
    assert str(tmp_path / "a.wav") in str(caught.value)
    taken = open_wavs(tmp_path, window=100, pad_short=True).take(np.array([0]))
    np.testing.assert_array_equal(taken[0], np.pad(x, ((0, 0), (0, 30))))
    short = open_wavs(tmp_path, window=200, rate=16000, resample=True, pad_short=True).take(np.array([0]))
    assert short[0, 0, :140].any()
    assert not short[0, 0, 140:].any()


def test_files_of_unequal_channels_are_refused(tmp_path):
    write(tmp_path / "a.wav", 200, 1)
    write(tmp_path / "b.wav", 200, 2)
    with pytest.raises(DataError, match=r"expected 1 channels like a\.wav, found 2") as caught:
        open_wavs(tmp_path, window=100)
    assert str(tmp_path / "b.wav") in str(caught.value)


def broken(tmp_path):
    good = tmp_path / "good.wav"
    write(good, 400, subtype="PCM_16")
    whole = good.read_bytes()
    good.unlink()
    soundfile.write(tmp_path / "flac", np.zeros(400), 8000, format="FLAC")
    flac = (tmp_path / "flac").read_bytes()
    soundfile.write(tmp_path / "none", np.zeros(0), 8000, format="WAV")
    none = (tmp_path / "none").read_bytes()
    (tmp_path / "flac").unlink()
    (tmp_path / "none").unlink()
    return {
        "cut": whole[:-100],
        "header": whole[:20],
        "empty": b"",
        "text": b"no sound",
        "flac": flac,
        "none": none,
    }


@pytest.mark.parametrize("how", ["cut", "header", "empty", "text", "flac", "none"])
def test_a_broken_file_is_named_at_once(tmp_path, how):
    path = tmp_path / "b.wav"
    path.write_bytes(broken(tmp_path)[how])
    with pytest.raises(DataError) as caught:
        open_wavs(tmp_path, window=100)
    assert str(path) in str(caught.value)


def test_a_file_that_goes_or_shrinks_later_and_a_nan_are_named(tmp_path):
    path = tmp_path / "a.wav"
    write(path, 400)
    source = open_wavs(tmp_path, window=100)
    soundfile.write(path, np.zeros(150), 8000)
    with pytest.raises(DataError, match="changed or damaged") as caught:
        source.take(np.array([1]))
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match="changed or damaged"):
        source.take(np.array([0]))
    soundfile.write(path, np.full(400, np.nan, np.float32), 8000, subtype="FLOAT")
    with pytest.raises(DataError, match="not a finite"):
        source.take(np.array([2]))


def test_folders_and_options_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"found no file ending in \.wav"):
        open_wavs(tmp_path, window=100)
    write(tmp_path / "a.wav", 400)
    with pytest.raises(ConfigError, match="window is 0"):
        open_wavs(tmp_path, window=0)
    with pytest.raises(ConfigError, match="stride is -5"):
        open_wavs(tmp_path, window=100, stride=-5)
    with pytest.raises(ConfigError, match="rate is 0"):
        open_wavs(tmp_path, window=100, rate=0)


def test_open_audio_gives_spectrograms_of_the_same_windows(tmp_path):
    write(tmp_path / "a.wav", 3000)
    signals = open_wavs(tmp_path, window=1000)
    source = open_audio(tmp_path, window=1000, n_mels=20, n_fft=256, hop=128)
    assert (source.kind, source.shape, len(source)) == ("spectrogram", (1, 20, 6), 3)
    expected = LogMel(8000, n_mels=20, n_fft=256, hop=128)(signals.take(np.arange(3)))
    np.testing.assert_array_equal(source.take(np.arange(3)), expected)
    assert open_audio(tmp_path, window=1000).kind == "signal"
