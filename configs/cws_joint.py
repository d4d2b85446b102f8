"""CWS-PResUNet, 166 layers with a head for each of bass, drums and other, as published."""

from dataclasses import replace

from configs import cws_vocals
from jaxmss.models import architecture
from jaxmss.training.config import Config, Data, Loss, Optim, Part


def get_config() -> Config:
    """Return the published recipe: four independent stems, 8 GPUs with 16 examples each.

    The learning rate is the published one for `other`, the stem that ByteMSS takes from this network; for bass and
    drums it is 3e-4.
    """
    stems = ("vocals", "bass", "drums", "other")
    return replace(
        cws_vocals.get_config(),
        model=architecture("cws-joint"),
        data=Data(parts=tuple(Part(stem, (stem,)) for stem in stems), batch=128),
        loss=Loss(waveform=0.85, spectrogram=0.15, conserve_after=10_000),
        optim=Optim(lr=5e-4),
    )
