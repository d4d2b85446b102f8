"""The twins are oracles: they are held to the outputs of the published implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_weights import GOLDEN, forward_golden, golden_state_dict, names, wave

from torch_twins import ARCHITECTURES, dsp, make_twin, separate_track


def golden(file: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def shapes(twin: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in twin.state_dict().items() if not k.endswith("num_batches_tracked")}


def randn(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def assert_near(actual: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_twin_reproduces_the_published_network(arch):
    twin = make_twin(arch)
    assert shapes(twin) == names(arch)
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in golden_state_dict(names(arch)).items()})
    with torch.inference_mode():
        output = twin(torch.from_numpy(wave(0, (1, 2, 44100)))).numpy()
    expected = forward_golden(arch)
    assert output.shape == expected.shape
    assert np.linalg.norm(output - expected) <= 2e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("arch", "trainable"),
    [
        ("cws-vocals", 202_581_426),
        ("cws-joint", 105_199_090),
        ("cws-small", 31_843_122),
        ("resunet143-subband", 102_572_466),
        ("resunet143-ismir2021", 102_571_278),
        ("mobilenet-subband", 306_418),
    ],
)
def test_twin_has_the_published_number_of_parameters(arch, trainable):
    with torch.device("meta"):
        twin = make_twin(arch)
    assert sum(p.numel() for p in twin.parameters()) == trainable


@pytest.mark.parametrize("subbands", [2, 4, 8])
@pytest.mark.parametrize(("prefix", "t", "tail"), [("", 8192, 0), ("padded_", 8191, 64)])
def test_filter_bank_reproduces_the_published_one(subbands, prefix, t, tail):
    expected = golden("pqmf")
    audio = torch.from_numpy(wave(1, (1, 2, t)))
    bands = dsp.analyze(F.pad(audio, (0, -t % subbands + tail)), subbands)
    assert_near(bands.flatten(1, 2), expected[f"{prefix}analysis_{subbands}"])
    assert_near(dsp.synthesize(bands)[..., :t], expected[f"{prefix}synthesis_{subbands}"])


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 110), (2048, 441)])
def test_stft_reproduces_the_published_one(n_fft, hop):
    expected = golden("stft")
    audio = torch.from_numpy(wave(2, (1, 11025)))
    spectrum = dsp.stft(audio, n_fft, hop)
    # A spectrum is not of unit scale: float32 rounding of the golden data, measured in float64, is itself up to 2.5e-6.
    peak = spectrum.abs().max().item()
    assert_near(spectrum.real[None, :, ::7], expected[f"real_{n_fft}"], scale=peak)
    assert_near(spectrum.imag[None, :, ::7], expected[f"imag_{n_fft}"], scale=peak)
    assert_near(dsp.istft(spectrum, n_fft, hop, 11025), expected[f"istft_{n_fft}"])

    shape = (1, 1, *spectrum.shape[1:])
    inconsistent = torch.complex(randn(3, shape), randn(4, shape))[0]
    assert_near(dsp.istft(inconsistent, n_fft, hop, 11025), expected[f"istft_inconsistent_{n_fft}"])


@pytest.mark.parametrize("t", [900, 1000, 4000, 4321])
def test_track_is_cut_and_rejoined_as_published(t):
    def ramp(x: torch.Tensor) -> torch.Tensor:
        return x * torch.linspace(0, 1, x.shape[-1])

    output = separate_track(ramp, torch.from_numpy(wave(7, (1, 2, t))), segment=1000, context=150)
    assert_near(output, golden("overlap-add")[f"out_{t}"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("t", [4801, 4803])
def test_small_twin_of_any_shape_returns_every_sample_and_gradient(arch, t):
    widths = tuple(range(2, 14, 2))
    twin = make_twin(arch, widths=widths, blocks=1, channels=1, n_fft=128, hop=28).double().train()
    audio = torch.from_numpy(wave(5, (2, 1, t))).double()
    output = twin(audio)
    output.square().sum().backward()
    assert output.shape == (2, len(twin.arch.sources), t)
    assert output.dtype == torch.float64
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
