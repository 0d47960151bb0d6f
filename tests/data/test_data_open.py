"""open_source: names and paths, options, lazy imports."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgessl.data
from edgessl.data import Source, content_hash, open_source
from edgessl.errors import ConfigError, DataError, MissingDependencyError


@pytest.fixture
def files(tmp_path):
    image, soundfile = pytest.importorskip("PIL.Image"), pytest.importorskip("soundfile")
    pytest.importorskip("pyarrow")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(4))
    packed = b"\0\0\x08\x03" + b"\0\0\0\4\0\0\0\x08\0\0\0\x08" + pixels.tobytes()
    (tmp_path / "a.idx").write_bytes(packed)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(packed)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(packed))
    (tmp_path / "images").mkdir()
    for number, one in enumerate(pixels):
        image.fromarray(one).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "a.wav", np.linspace(-1, 1, 300), 8000)
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 10)
    return tmp_path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.idx", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_the_same_images_from_every_format(files, name):
    source = open_source(str(files / name))
    assert isinstance(source, Source)
    assert content_hash(source) == content_hash(open_source(files / "images", channels=1))


def test_folders_and_tables_are_recognised_and_get_their_options(files):
    assert open_source(files / "sounds", window=100).shape == (1, 100)
    assert open_source(files / "sounds", window=300, n_mels=10, n_fft=256, hop=10).shape == (1, 10, 5)
    assert open_source(files / "a.csv", window=5, columns=["y"]).take(np.array([1])).tolist() == [[[2.0] * 5]]


def test_digits_by_name():
    pytest.importorskip("sklearn")
    assert len(open_source("digits")) == len(open_source("digits:train")) == 1200
    assert open_source("digits:test", size=8).shape == (1, 8, 8)
    with pytest.raises(ConfigError, match="no part 'validation'"):
        open_source("digits:validation")
    with pytest.raises(ConfigError, match="'digits' has no option 'split'; its options are: size"):
        open_source("digits", split="test")


def test_a_file_named_digits_is_reached_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="found nothing there"):
        open_source(Path("digits"))
    with pytest.raises(DataError, match="found nothing there"):
        open_source("./digits")


def test_unknown_and_missing_options_are_named(files):
    with pytest.raises(ConfigError, match=r"a\.npy.* has no option 'sizes'; its options are: x, y, labels"):
        open_source(files / "a.npy", sizes=3)
    with pytest.raises(ConfigError, match="needs the option 'window'"):
        open_source(files / "a.csv")


def test_what_cannot_be_recognised_is_refused_by_name(files):
    (files / "notes.md").write_text("nothing")
    (files / "empty").mkdir()
    (files / "mixed").mkdir()
    (files / "mixed" / "a.wav").write_bytes(b"")
    (files / "mixed" / "a.png").write_bytes(b"")
    for name, message in (
        ("notes.md", "found a file of another kind"),
        ("absent.npy", "found nothing there"),
        ("empty", "found 0 images and 0 WAV files"),
        ("mixed", "found 1 images and 1 WAV files"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            open_source(files / name)
        assert str(files / name) in str(caught.value)


def test_every_public_name_is_there():
    for name in edgessl.data.__all__:
        assert getattr(edgessl.data, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = edgessl.data.nonsense


def loaded_modules(code):
    script = f"import sys\n{code}\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in found.stdout.split()}


def test_importing_the_package_loads_no_reader():
    loaded = loaded_modules("import edgessl.data")
    assert not loaded & {"numpy", "PIL", "soundfile", "pyarrow", "sklearn", "scipy", "torch", "onnxruntime"}


def test_importing_every_module_loads_numpy_and_no_optional_package():
    names = [path.stem for path in Path(edgessl.data.__file__).parent.glob("*.py") if path.stem != "__init__"]
    loaded = loaded_modules("\n".join(f"import edgessl.data.{name}" for name in names))
    assert "numpy" in loaded
    assert not loaded & {"PIL", "soundfile", "pyarrow", "sklearn", "scipy", "torch", "onnx", "onnxruntime"}


@pytest.mark.parametrize(
    ("package", "what", "options"),
    [
        ("PIL", "images", {}),
        ("soundfile", "sounds", {"window": 100}),
        ("pyarrow", "a.csv", {"window": 5}),
        ("sklearn", "digits", {}),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(files, monkeypatch, package, what, options):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # what the import system takes for "not installed"
    spec = what if what == "digits" else files / what
    with pytest.raises(MissingDependencyError, match=rf"{package}.*pip install 'edgessl\[train\]'"):
        open_source(spec, **options)
