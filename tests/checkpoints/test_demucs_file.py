"""Files that the package demucs writes are read without it, and its arguments become our configs."""

import inspect
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs_files import contents

from jaxmss.checkpoints.demucs_file import DEMUCS_CLASSES, read_demucs_file
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig, ResidualBranch, Transformer
from jaxmss.errors import CheckpointError
from jaxmss.published_systems import SYSTEMS

CLASSES = {"demucs": Demucs, "hdemucs": HDemucs, "htdemucs": HTDemucs}
STEMS = ["drums", "bass", "other", "vocals"]


def described(path: Path, architecture: str, **arguments):
    """Write a file that tells the arguments of a network and has no parameters, and return its config."""
    package = {"klass": CLASSES[architecture], "args": (), "training_args": {"seed": 42}}
    torch.save({**package, "kwargs": {"sources": STEMS, **arguments}, "state": {"x": torch.zeros(1)}}, path)
    return read_demucs_file(path, architecture)[0]


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_of_the_package_is_known_with_its_default(name):
    ours = DEMUCS_CLASSES[name]
    theirs = {key: parameter.default for key, parameter in inspect.signature(CLASSES[name]).parameters.items()}
    assert {**ours.chosen, **ours.fixed} == {key: theirs[key] for key in (*ours.chosen, *ours.fixed)}
    assert {"sources", *ours.chosen, *ours.fixed, *ours.unread} == theirs.keys()
    assert len(ours.chosen) + len(ours.fixed) + len(ours.unread) + 1 == len(theirs)


def test_the_defaults_are_those_of_each_class(tmp_path):
    hybrid = HybridDemucsConfig(segment=40.0, band_levels=2, residual=ResidualBranch())
    assert described(tmp_path / "x.th", "demucs") == DemucsConfig()
    assert described(tmp_path / "x.th", "hdemucs") == hybrid
    assert described(tmp_path / "x.th", "htdemucs") == HybridDemucsConfig(
        depth=4,
        segment=10.0,
        residual=ResidualBranch(compression=8, scale=1e-3),
        transformer=Transformer(width=0, dropout=0.0),
    )


def test_the_arguments_of_the_published_transformer_are_understood(tmp_path):
    arguments = {"t_sparse_attn_window": 400, "multi_freqs": [], "t_lr": None, "segment": Fraction(39, 5)}
    config = described(tmp_path / "x.th", "htdemucs", bottom_channels=512, dconv_mode=3, t_dropout=0.02, **arguments)
    assert config.transformer == Transformer()
    assert config.residual.where == "both"
    assert config.segment == 7.8


def test_what_hybrid_networks_differ_in_is_read(tmp_path):
    arguments = {"cac": False, "hybrid_old": True, "multi_freqs": [0.25, 0.5], "multi_freqs_depth": 1, "freq_emb": None}
    config = described(tmp_path / "x.th", "hdemucs", growth=2.0, samplerate=48000, audio_channels=1, **arguments)
    assert (config.output, config.old_padding) == ("magnitude", True)
    assert (config.band_edges, config.band_levels, config.embedding) == ((0.25, 0.5), 1, 0.0)
    assert (config.sample_rate, config.channels, config.growth) == (48000, 1, 2)


@pytest.mark.parametrize(("mode", "where"), [(0, "none"), (1, "encoder"), (2, "decoder"), (3, "both")])
def test_the_place_of_the_branches_is_read(tmp_path, mode, where):
    assert described(tmp_path / "x.th", "demucs", dconv_mode=mode).residual.where == where


def test_the_older_name_of_the_hybrid_class_is_known(tmp_path, monkeypatch):
    old = type("WDemucs", (), {"__module__": "demucs.wdemucs"})
    monkeypatch.setattr("demucs.wdemucs.WDemucs", old)
    monkeypatch.setitem(CLASSES, "hdemucs", old)
    assert described(tmp_path / "x.th", "hdemucs", channels=32).width == 32


@pytest.mark.parametrize("half", [True, False])
def test_the_parameters_come_as_they_are(tmp_path, half):
    network = Demucs(["a", "b"], channels=4, depth=2)
    torch.save(contents(network, half), tmp_path / "x.th")
    config, state = read_demucs_file(tmp_path / "x.th", "demucs")
    assert config.sources == ("a", "b")  # given by position
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor.half() if half else tensor)
        assert state[name].dtype == (np.float16 if half else np.float32)


class Reduced:
    """Pickled as a call of `Fraction` with the given numbers."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __reduce__(self):
        return Fraction, self.numbers


@pytest.mark.parametrize("numbers", [("39/5",), (39, 5), ("10",)])
def test_fractions_are_read_however_pythons_pickle_them(tmp_path, numbers):
    assert described(tmp_path / "x.th", "htdemucs", segment=Reduced(*numbers)).segment == float(Fraction(*numbers))


@pytest.mark.parametrize("numbers", [("1e999999999",), ("1/0",), (10**30, 1), ([1], 2), (), ("nan",)])
def test_other_fractions_are_refused_at_once(tmp_path, numbers):
    with pytest.raises(CheckpointError, match="is damaged"):
        described(tmp_path / "x.th", "htdemucs", segment=Reduced(*numbers))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [(architecture, name) for architecture, kind in DEMUCS_CLASSES.items() for name in kind.fixed],
)
def test_options_that_our_networks_do_not_have_are_refused_by_name_and_value(tmp_path, architecture, name):
    required = DEMUCS_CLASSES[architecture].fixed[name]
    value = not required if isinstance(required, bool) else 3
    with pytest.raises(CheckpointError) as error:
        described(tmp_path / "x.th", architecture, **{name: value})
    expected = f"'{name}' (={value}) is always {required!r} here"
    assert str(error.value) == f"{tmp_path / 'x.th'}: holds a network that cannot be built here: {expected}"


def test_filtering_is_refused_where_it_would_be_done(tmp_path):
    assert described(tmp_path / "x.th", "hdemucs", wiener_iters=2, end_iters=2).output == "complex"
    with pytest.raises(CheckpointError, match=r"'wiener_iters' \(=2\) is always 0 here"):
        described(tmp_path / "x.th", "hdemucs", cac=False, wiener_iters=2, end_iters=2)


def test_bands_that_are_no_list_are_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"'band_edges' \(=3\)"):
        described(tmp_path / "x.th", "hdemucs", multi_freqs=3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"growth": 1.5}, r"'growth' \(=1.5\)"),
        ({"depth": 0}, r"'depth' \(=0\)"),
        ({"depth": "6"}, r"'depth' \(='6'\)"),
        ({"dconv_mode": 4}, r"'where' \(=4\)"),
        ({"sources": "vocals"}, r"'sources' \(='vocals'\)"),
        ({"sources": ["../x"]}, r"'sources' \(=\('../x',\)\)"),
        ({"segment": 1e9}, r"'segment' \(=1000000000.0\)"),
        ({"segment": torch.ones(2)}, "'segment' is neither a number"),
        ({"sources": [torch.ones(2)]}, "'sources' is neither a number"),
        ({"sources": ["a" * 101]}, "'sources' is neither a number"),
        ({"sources": STEMS * 100}, "'sources' is neither a number"),
        ({"segment": 10**5000}, "'segment' is neither a number"),
        ({"stride": Path("4")}, "'stride' is neither a number"),
    ],
)
def test_values_that_no_network_has_are_told_in_one_line(tmp_path, arguments, told):
    with pytest.raises(CheckpointError, match=told) as error:
        described(tmp_path / "x.th", "demucs", **arguments)
    assert "\n" not in str(error.value)


def test_an_argument_that_the_package_does_not_know_is_left_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"demucs 4\.1\.0 does not know are left out: 'bands', 'old'"):
        config = described(tmp_path / "x.th", "demucs", bands=3, old=False)
    assert config == DemucsConfig()


def test_a_file_of_another_class_is_refused_naming_both(tmp_path):
    torch.save(contents(Demucs(["a"], channels=4, depth=2)), tmp_path / "x.th")
    with pytest.raises(
        CheckpointError, match=r"a network 'demucs.demucs.Demucs', not 'htdemucs'; convert it as 'demucs'"
    ):
        read_demucs_file(tmp_path / "x.th", "htdemucs")


def test_a_class_that_is_not_of_the_package_is_refused(tmp_path):
    torch.save({"klass": Fraction, "args": (), "kwargs": {"sources": STEMS}, "state": {}}, tmp_path / "x.th")
    with pytest.raises(
        CheckpointError, match=r"'fractions.Fraction', not 'demucs'; choose from demucs, hdemucs, htdemucs"
    ):
        read_demucs_file(tmp_path / "x.th", "demucs")


@pytest.mark.parametrize("package", [{"state_dict": {"x": torch.zeros(1)}}, [1, 2], {"klass": Demucs}])
def test_other_files_are_refused(tmp_path, package):
    torch.save(package, tmp_path / "x.th")
    with pytest.raises(CheckpointError, match=r"is no network as the package demucs writes them; give its \.th file"):
        read_demucs_file(tmp_path / "x.th", "demucs")


def test_quantised_files_are_refused_with_what_to_take_instead(tmp_path):
    package = contents(Demucs(["a"], channels=4, depth=2))
    torch.save(package | {"state": {"__quantized": True, "quantized": [b"packed"]}}, tmp_path / "x.th")
    with pytest.raises(
        CheckpointError, match=r"quantised .* DiffQ, .*; take the network that was not quantised, such as mdx"
    ):
        read_demucs_file(tmp_path / "x.th", "demucs")


def test_the_published_files_are_those_of_the_package():
    remote = resources.files("demucs") / "remote"
    listed = (remote / "files.txt").read_text().splitlines()
    networks = [weights for weights in PUBLISHED.values() if weights.architecture in DEMUCS_CLASSES]
    for weights in networks:
        assert weights.file_name == f"{weights.name}-{weights.sha256[:8]}.th"
        above = listed[: listed.index(weights.file_name)]
        root = next(line for line in reversed(above) if line.startswith("root:")).split()[1]
        assert weights.url == f"https://dl.fbaipublicfiles.com/demucs/{root}{weights.file_name}"
    systems = ("mdx", "mdx_extra", "hdemucs_mmi", "htdemucs", "htdemucs_ft", "htdemucs_6s")
    bags = {system: yaml.safe_load((remote / f"{system}.yaml").read_text()) for system in systems}
    signatures = sorted(signature for bag in bags.values() for signature in bag["models"])
    assert signatures == sorted(weights.name for weights in networks)
    for system, bag in bags.items():
        sources = SYSTEMS[system].sources
        rows = bag.get("weights") or [[1.0] * len(sources)] * len(bag["models"])
        order = ("drums", "bass", "other", "vocals", "guitar", "piano")  # in which the package writes weights
        expected = {
            (signature, stem): weight
            for signature, row in zip(bag["models"], rows, strict=True)
            for stem, weight in zip(order, row, strict=False)
            if weight
        }
        parts = SYSTEMS[system].parts
        assert {(part.network, stem): part.weight(stem) for part in parts for stem in part.stems} == expected
        assert {part.segment for part in parts} == {bag.get("segment")}
        assert all(part.overlap is None and not part.minus for part in parts)  # the networks' own 0.25


def test_the_challenges_system_is_as_its_authors_run_it():
    vocals, *rhythm, other = SYSTEMS["bytemss"].parts
    assert (vocals.network, vocals.stems, vocals.minus) == ("cws-vocals", ("vocals",), ())
    assert (other.network, other.stems, other.minus) == ("cws-joint", ("other",), ("vocals",))
    shares = {(part.network, stem) for part in SYSTEMS["mdx"].parts for stem in part.stems}
    assert {(part.network, stem) for part in rhythm for stem in part.stems} == {
        (network, stem) for network, stem in shares if stem in ("drums", "bass")
    }
    assert {(part.overlap, part.segment, part.minus) for part in rhythm} == {(0.15, 44.0, ())}
    assert {part.segment for part in (vocals, other)} == {None}
