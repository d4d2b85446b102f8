"""Signal processing of the twins: filter bank, STFT and maps, in the dtype of their input."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = 64
FILTERS = Path(__file__).parents[1] / "golden" / "pqmf-filters.npz"


@functools.cache
def pqmf_filters(subbands: int) -> tuple[np.ndarray, np.ndarray]:
    """Analysis and synthesis filters, (s, 64) each, float64."""
    with np.load(FILTERS) as file:
        return file[f"f_{subbands}"], file[f"h_{subbands}"]


def analyze(audio: Tensor, subbands: int) -> Tensor:
    """(b, c, t) -> (b, c, s, k), k = t // s: `u_s[k] = sum_m f_s[m] / S * x[S k + S - 1 - m]`."""
    b, c, t = audio.shape
    if subbands == 1:
        return audio[:, :, None]
    f = torch.from_numpy(pqmf_filters(subbands)[0]).to(audio.dtype) / subbands
    x = F.pad(audio.reshape(b * c, 1, t), (TAPS - subbands, 0))
    return F.conv1d(x, f.flip(1)[:, None], stride=subbands).reshape(b, c, subbands, -1)


def synthesize(u: Tensor) -> Tensor:
    """(b, c, s, k) -> (b, c, s * k): `y[S k + p] = S * sum_s sum_q h_s[S q + p] * u_s[k + 63 // S - q]`."""
    b, c, s, k = u.shape
    if s == 1:
        return u[:, :, 0]
    h = torch.from_numpy(pqmf_filters(s)[1]).to(u.dtype) * s
    kernel = h.reshape(s, TAPS // s, s).permute(2, 0, 1).flip(2)  # (phase p, subband, lag from the oldest sample)
    phases = F.conv1d(F.pad(u.reshape(b * c, s, k), (0, TAPS // s - 1)), kernel)
    return phases.transpose(1, 2).reshape(b, c, s * k)


def stft(x: Tensor, n_fft: int, hop: int) -> Tensor:
    """(b, t) -> (b, n, f) complex: periodic Hann window, centred, reflect padding."""
    window = torch.hann_window(n_fft, dtype=x.dtype)
    return torch.stft(x, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True).mT


def istft(spectrum: Tensor, n_fft: int, hop: int, length: int) -> Tensor:
    """(b, n, f) -> (b, length): overlap-add of windowed frames over the overlap-added squared window."""
    window = torch.hann_window(n_fft, dtype=spectrum.real.dtype)
    frames = torch.fft.irfft(spectrum, n_fft) * window
    squares = (window**2).expand(1, frames.shape[1], n_fft)
    y = _overlap_add(frames, hop) / _overlap_add(squares, hop).clamp(min=1e-11)
    return y[:, n_fft // 2 : n_fft // 2 + length]


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    _, n, n_fft = frames.shape
    return F.fold(frames.mT, (1, (n - 1) * hop + n_fft), (1, n_fft), stride=(1, hop))[:, 0, 0]


def polar(spectrum: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitude, cosine and sine of the phase."""
    magnitude = (spectrum.real**2 + spectrum.imag**2).clamp(min=eps).sqrt()
    return magnitude, spectrum.real / magnitude, spectrum.imag / magnitude


def apply_maps(
    maps: Tensor, magnitude: Tensor, cos: Tensor, sin: Tensor, tanh_phase: bool, tanh_residual: bool
) -> Tensor:
    """Maps (m, ...) in the order M, P_r, P_i, Q and the mixture (...) -> complex estimate (...)."""
    mask, p_real, p_imag, residual = maps
    if tanh_phase:
        p_real, p_imag = p_real.tanh(), p_imag.tanh()
    if tanh_residual:
        residual = residual.tanh()
    p = (p_real**2 + p_imag**2).sqrt().clamp(min=1e-10)
    turn_cos, turn_sin = p_real / p, p_imag / p
    estimate = (mask.sigmoid() * magnitude + residual).relu()
    return torch.complex(estimate * (cos * turn_cos - sin * turn_sin), estimate * (sin * turn_cos + cos * turn_sin))
