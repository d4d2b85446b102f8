"""Demucs in time with residual branches (v3), four stems."""

from jaxmss.models import architecture
from jaxmss.training.config import Config, Data, Optim, Part


def get_config() -> Config:
    """Return the published recipe: 8 GPUs with 8 examples each, 10 s long, the track of every stem drawn by itself.

    There are 360 epochs, each with an example for every second of the tracks, 19,400. Stems are scaled, turned round
    and mirrored at random. No pitch or tempo is changed, which was done to a fifth of the stems.
    """
    model = architecture("demucs")
    return Config(
        model,
        Data(
            parts=tuple(Part(source, (source,)) for source in model.sources),
            seconds=10.0,
            batch=64,
            gain=(0.25, 1.25),
            swap_channels=0.5,
            flip_polarity=0.5,
        ),
        optim=Optim(amsgrad=False, lr=3e-4, warmup=0.0, decay=1.0, ema=0.9999),
        hours=360 * 19_400 * 10 / 3600,
    )
