"""Hybrid Transformer Demucs (v4), four stems."""

from dataclasses import replace

from configs import demucs
from jaxmss.models import architecture
from jaxmss.training.config import Config


def get_config() -> Config:
    """Return the published recipe: 8 GPUs with 4 examples each, 7.8 s long; 1,200 epochs of 800 batches."""
    recipe = demucs.get_config()
    return replace(
        recipe,
        model=architecture("htdemucs"),
        data=replace(recipe.data, seconds=7.8, batch=32),
        hours=1200 * 800 * 32 * 7.8 / 3600,
    )
