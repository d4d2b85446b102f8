"""CWS-PResUNet, 276 layers: vocals, as published (2 days on 8 V100 GPUs)."""

from jaxmss.models import architecture
from jaxmss.training.config import Config


def get_config() -> Config:
    """Return the published recipe, which is what the fields of `Config` say by default: 8 GPUs with 8 examples each."""
    return Config(architecture("cws-vocals"))
