"""Hybrid Demucs (v3), spectral and temporal, four stems."""

from dataclasses import replace

from configs import demucs
from jaxmss.models import architecture
from jaxmss.training.config import Config


def get_config() -> Config:
    """Return the published recipe, which is that of Demucs in time."""
    return replace(demucs.get_config(), model=architecture("hdemucs"))
