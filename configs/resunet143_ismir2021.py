"""ResUNetDecouple+, 143 layers without subbands: vocals or accompaniment, as published."""

from dataclasses import replace

from configs import resunet143_subband
from jaxmss.models import architecture
from jaxmss.training.config import Config


def get_config() -> Config:
    """Return the published recipe for vocals; for accompaniment, `--model.sources accompaniment`."""
    return replace(resunet143_subband.get_config(), model=architecture("resunet143-ismir2021"))
