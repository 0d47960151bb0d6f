"""The integer network: what it refuses, with which words, and its file."""

import io
import json
import zipfile

import numpy as np
import pytest

from edgessl.errors import ConfigError, FormatError, InputError
from neuromorphic.builders import feed_forward, lateral, lower_convolution, lower_pooling
from neuromorphic.network import Connection, IntegerNetwork, choose_sign, quantize_weights
from neuromorphic.network_file import dump_network, load_network, parse_network, save_network
from neuromorphic.populations import LIF, ErrorUnit, Graded, Input, TernaryLIF
from neuromorphic.rules import LearningRule


def everything() -> IntegerNetwork:
    """A network with every kind of part."""
    rng = np.random.default_rng(0)
    rule = LearningRule("2^-4*x0*y1 - 2^-4*y0*x1", "2^-2*x0*y1", x1_impulse=16.5, x1_tau=10, y1_impulse=4, y1_tau=3)
    mixed = quantize_weights(rng.integers(-100, 100, (4, 5)), 8, "mixed")
    return IntegerNetwork(
        [Input("spikes", 5), Input("values", 4, 7)],
        [
            LIF("a", 4, 100, 200, 300, np.arange(4), np.array([0, 1, 2, 3]), reset_interval=9, reset_offset=2),
            TernaryLIF("b", 4, vth=50, vth_lo=-20),
            Graded("c", 4, 3, True),
            ErrorUnit("d", 4, 300, 2),
        ],
        [
            Connection("plastic", "spikes", "a", mixed, 1, rule=rule),
            Connection("delayed", "a", "b", np.eye(4, dtype=int) * 8, -2, 5, delays=rng.integers(0, 9, (4, 4))),
            Connection("graded", "values", "c", np.eye(4, dtype=int) * 64, payload_bits=8),
            Connection("error", "c", "d", np.eye(4, dtype=int) * 2, payload_bits=24),
            Connection("target", "b", "d", np.eye(4, dtype=int) * 2, payload_bits=1, port="target"),
        ],
        {"scale": 3.5},
    )


def one(**given: object) -> Connection:
    return Connection(**({"name": "c", "pre": "i", "post": "p", "weights": np.array([[2, -4]])} | given))  # type: ignore[arg-type]


def test_quantizing_follows_the_notes() -> None:
    # notes/lava.md 2.1: mixed weights are always even; [3, -1] becomes [2, -2]; floats are cut toward zero
    assert quantize_weights(np.array([[3, -1]])).tolist() == [[2, -2]]
    assert quantize_weights(np.array([[0.9, 255.7]])).tolist() == [[0, 255]]
    assert quantize_weights(np.array([[-400, 400]])).tolist() == [[-256, 254]]
    assert quantize_weights(np.array([[-400, -3]])).tolist() == [[-255, -3]]
    # b bits keep multiples of 2^(8-b), mixed ones of 2^(9-b), rounded down; inhibitory ones are mirrored
    assert quantize_weights(np.array([[17, -17]]), 4).tolist() == [[0, -32]]
    assert quantize_weights(np.array([[17, 47]]), 4).tolist() == [[16, 32]]
    assert quantize_weights(np.array([[-17, -47]]), 4).tolist() == [[-16, -32]]
    assert choose_sign(np.array([0, 1])) == "excitatory"
    assert choose_sign(np.array([0, -1])) == "inhibitory"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LIF("p", 3, du=4096), ["du", "0..4095", "4096"]),
        (lambda: LIF("p", 3, dv=-1), ["dv", "0..4095"]),
        (lambda: LIF("p", 3, dv=0.5), ["dv", "integers", "float64"]),  # type: ignore[arg-type]
        (lambda: LIF("p", 3, vth=131_072), ["vth", "131071", "scale"]),
        (lambda: LIF("p", 3, bias=4096), ["bias", "-4096..4095", "bias_exp"]),
        (lambda: LIF("p", 3, bias_exp=8), ["bias_exp", "0..7"]),
        (lambda: LIF("p", 3, bias=np.zeros(2, int)), ["bias", "(3,)", "(2,)"]),
        (lambda: LIF("p", 0), ["size", "0..0"]),
        (lambda: TernaryLIF("p", 3, vth=10, vth_lo=11), ["vth_lo", "11"]),
        (lambda: Graded("p", 3, -1), ["vth", "-1"]),
        (lambda: ErrorUnit("p", 3, shift=24), ["shift", "0..23"]),
        (lambda: Input("i", 3, 25), ["payload_bits", "0..24"]),
        (lambda: one(weights=np.array([[3, -4]])), ["1 weights", "8-bit mixed", "becomes 2", "quantize_weights"]),
        (lambda: one(weights=np.array([[256, 0]])), ["-256..255", "0..256"]),
        (lambda: one(weights=np.array([1, 2])), ["(n_post, n_pre)", "(2,)"]),
        (lambda: one(exponent=8), ["exponent", "-8..7"]),
        (lambda: one(bits=9), ["bits", "1..8"]),
        (lambda: one(sign="positive"), ["sign", "excitatory", "positive"]),
        (lambda: one(sign="excitatory"), ["excitatory", "-4 which becomes 0"]),
        (lambda: one(delays=64), ["delays", "0..63", "64"]),
        (lambda: one(delays=np.zeros((2, 2), int)), ["delays", "(1, 2)", "(2, 2)"]),
        (lambda: one(delays=1, rule=LearningRule("x0*y1")), ["plastic", "delays"]),
        (lambda: one(port="b"), ["port", "target"]),
        (lambda: one(modulators={"y1": "m"}), ["three_factor"]),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        make()  # type: ignore[operator]
    text = str(found.value)
    if words == ["size", "0..0"]:
        assert "size must be in 1.." in text
        assert "found 0..0" in text
        return
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("connections", "words"),
    [
        ([one(pre="x")], ["pre 'x'", "i, p"]),
        ([one(post="i")], ["post 'i'", "p"]),
        ([one(weights=np.array([[2], [4]]))], ["(1, 2)", "(2, 1)", "a row is a post neuron"]),
        ([one(), one()], ["two parts", "'c'"]),
        ([one(port="target")], ["error units", "'lif'"]),
        ([one(rule=LearningRule("x0*y1", three_factor=True))], ["y0..y3", "modulators"]),
        ([one(rule=LearningRule("x0*y1", three_factor=True), modulators={"y1": "i"})], ["of 1", "found 2"]),
        ([one(rule=LearningRule("x0*y1", three_factor=True), modulators={"y1": "p.y1"})], ["only error units"]),
    ],
)
def test_wiring_mistakes_are_refused(connections: list[Connection], words: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        IntegerNetwork([Input("i", 2)], [LIF("p", 1)], connections)
    for word in words:
        assert word in str(found.value)


def test_inputs_are_checked() -> None:
    network = IntegerNetwork([Input("i", 2)], [LIF("p", 1)], [one()])
    assert network.check_inputs({"i": np.ones((1, 3, 2), bool)})["i"].dtype == np.int8
    for bad, word in (
        ({"j": np.ones((1, 3, 2), int)}, "'j'"),
        ({"i": np.ones((3, 2), int)}, "(batch, steps, 2)"),
        ({"i": np.ones((1, 3, 2))}, "float64"),
        ({"i": np.full((1, 3, 2), 2)}, "0..1"),
    ):
        with pytest.raises(InputError) as found:
            network.check_inputs(bad)
        assert word in str(found.value)


def test_a_network_file_gives_the_network_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = everything()
    path = save_network(network, tmp_path / "new" / "a.network")
    again = load_network(path)
    assert dump_network(again) == path.read_bytes() == dump_network(network)
    assert again.notes == {"scale": 3.5}
    assert again.connection("plastic").rule == network.connection("plastic").rule
    assert np.array_equal(again.connection("delayed").delays, network.connection("delayed").delays)  # type: ignore[arg-type]
    assert np.array_equal(again.population("a").bias_current, [0, 2, 8, 24])  # type: ignore[attr-defined]


def altered(change) -> bytes:  # type: ignore[no-untyped-def]
    """The file of `everything` with its header or members changed."""
    source = zipfile.ZipFile(io.BytesIO(dump_network(everything())))
    members = {name: source.read(name) for name in source.namelist()}
    header = json.loads(members.pop("network.json"))
    change(header, members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {"network.json": json.dumps(header).encode(), **members}.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, m: h.update(format="zip"), ["format", "zip"]),
        (lambda h, m: h.update(version=2), ["version must be 1", "2"]),
        (lambda h, m: h.update(more=1), ["more"]),
        (lambda h, m: h["populations"][0].update(kind="adex"), ["kind", "adex"]),
        (lambda h, m: h["populations"][0].pop("du"), ["LIF", "du"]),
        (lambda h, m: h["inputs"][0].update(rate=1), ["Input", "rate"]),
        (lambda h, m: m.clear(), ["is not in the file"]),
        (lambda h, m: m.update({k: b"x" * 200 for k in m}), ["damaged"]),
        (lambda h, m: h["connections"][0].update(weights=[[1]]), ["weights", "array member"]),
    ],
)
def test_damaged_network_files_are_refused(change, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FormatError) as found:
        parse_network(altered(change), "here")
    for word in ["here", *words]:
        assert word in str(found.value)


def test_pickled_arrays_and_other_files_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    bad = io.BytesIO()
    np.save(bad, np.array([{}], object), allow_pickle=True)
    with pytest.raises(FormatError, match="damaged"):
        parse_network(altered(lambda h, m: m.update({k: bad.getvalue() for k in m})))
    for data in (b"", b"PK", b"not a zip"):
        with pytest.raises(FormatError):
            parse_network(data)
    with pytest.raises(FormatError, match="No such file"):
        load_network(tmp_path / "none")
    with pytest.raises(ConfigError, match="du"):  # well-formed, but no network
        parse_network(altered(lambda h, m: h["populations"][0].update(du=5000)))


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_a_lowered_convolution_is_torchs(stride: int, padding: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(stride)
    kernel, image = rng.integers(-9, 9, (4, 3, 3, 2)), rng.integers(-9, 9, (3, 8, 7))
    matrix, shape = lower_convolution(kernel, image.shape, stride, padding)
    expected = torch.nn.functional.conv2d(
        torch.tensor(image[None], dtype=torch.float64), torch.tensor(kernel, dtype=torch.float64), None, stride, padding
    )[0]
    assert shape == tuple(expected.shape)
    assert np.array_equal(matrix @ image.ravel(), expected.numpy().ravel().astype(int))


def test_lowered_pooling_and_lateral_weights() -> None:
    matrix, shape = lower_pooling((2, 4, 4), 2, 3)
    image = np.arange(32).reshape(2, 4, 4)
    sums = image.reshape(2, 2, 2, 2, 2).sum((2, 4)) * 3
    assert shape == (2, 2, 2)
    assert np.array_equal((matrix @ image.ravel()).reshape(shape), sums)
    assert lateral(3, -8).tolist() == [[0, -8, -8], [-8, 0, -8], [-8, -8, 0]]
    with pytest.raises(ConfigError, match="does not fit"):
        lower_convolution(np.zeros((1, 1, 9, 9), int), (1, 4, 4))


def test_feed_forward_builds_chains() -> None:
    rng = np.random.default_rng(3)
    weights = [rng.integers(-90, 90, (6, 5)), rng.integers(-90, 90, (4, 6))]
    layers = [{"kind": "ternary", "vth": 9, "vth_lo": -9}, {"du": 5}]
    network = feed_forward(weights, layers, bits=6, delays=[None, 3], recurrent={"layer0": rng.integers(-9, 9, (6, 6))})
    names = [(c.name, c.payload_bits, c.max_delay) for c in network.connections]
    assert names == [("input_layer0", 0, 0), ("layer0_layer0", 1, 0), ("layer0_layer1", 1, 3)]
    assert np.array_equal(network.connection("layer0_layer1").weights, quantize_weights(weights[1], 6))
    with pytest.raises(ConfigError, match="as many layers"):
        feed_forward(weights, layers[:1])
    with pytest.raises(ConfigError, match="kind"):
        feed_forward(weights, [{"kind": "adex"}, {}])
