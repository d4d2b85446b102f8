"""Sounds, and files of them in every format: libsndfile and FFmpeg write what the package reads."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44100
SOUNDFILE_FORMATS = {  # extension -> (format, subtype)
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_24"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "au": ("AU", "PCM_16"),
}
FFMPEG_FORMATS = {  # extension -> codec
    "m4a": "aac",
    "alac.m4a": "alac",
    "stem.mp4": "aac",
    "webm": "libopus",
    "mka": "flac",
    "wma": "wmav2",
    "aac": "aac",
}


def music(seconds: float = 2.0, rate: int = RATE, channels: int = 2) -> np.ndarray:
    """A chord in noise, float32 (c, t), within full scale."""
    t = np.arange(round(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * f * t + c) for c, f in enumerate((220.0, 277.2, 329.6))) / 6
    noise = np.random.default_rng(0).normal(scale=0.05, size=(channels, len(t)))
    return (chord + noise).astype(np.float32)


def write_with_soundfile(path: Path, waveform: np.ndarray, rate: int = RATE, extension: str | None = None) -> Path:
    format, subtype = SOUNDFILE_FORMATS[extension or path.name.split(".", 1)[1]]
    soundfile.write(path, waveform.T, rate, format=format, subtype=subtype)
    return path


def write_with_ffmpeg(path: Path, waveform: np.ndarray, codec: str, rate: int = RATE, **options: str) -> Path:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(waveform)]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 192_000
        for start in range(0, waveform.shape[1], 4096):
            block = np.ascontiguousarray(waveform[:, start : start + 4096])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rate_of(extension: str) -> int:
    return 48000 if extension in ("opus", "webm") else RATE  # Opus has no other


def write_any(folder: Path, extension: str, waveform: np.ndarray) -> Path:
    path, rate = folder / f"music.{extension}", rate_of(extension)
    if extension in SOUNDFILE_FORMATS:
        return write_with_soundfile(path, waveform, rate)
    return write_with_ffmpeg(path, waveform, FFMPEG_FORMATS[extension], rate)
