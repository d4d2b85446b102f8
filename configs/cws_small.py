"""CWS-PResUNet with one block a level, 31.8 M parameters: vocals; the recipe of cws_vocals."""

from dataclasses import replace

from configs import cws_vocals
from jaxmss.models import architecture
from jaxmss.training.config import Config


def get_config() -> Config:
    """Return the recipe of the 276-layer network for the small one."""
    return replace(cws_vocals.get_config(), model=architecture("cws-small"))
