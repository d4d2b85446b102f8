"""ResUNet143 with subbands (bytesep): vocals or accompaniment, as published."""

from jaxmss.models import architecture
from jaxmss.training.config import Config, Data, Optim, Part

EXAMPLES, SECONDS = 16, 3.0  # of one step


def hours(steps: int) -> float:
    """Return the hours of audio in so many steps: this recipe is published in steps."""
    return steps * EXAMPLES * SECONDS / 3600


def get_config() -> Config:
    """Return the published recipe for vocals; for accompaniment, `--model.sources accompaniment`."""
    return Config(
        architecture("resunet143-subband"),
        Data(
            parts=(Part("vocals", ("vocals",), count=2), Part("accompaniment", ("bass+drums+other",), count=2)),
            batch=EXAMPLES,
            seconds=SECONDS,
        ),
        optim=Optim(lr=1e-3, warmup=hours(1000), decay=0.9, decay_every=hours(15_000)),
        hours=hours(500_000),
    )
