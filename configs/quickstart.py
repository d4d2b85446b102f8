"""Trial run: a small CWS-PResUNet learns to find synthetic voices in minutes on two cores; makes its own songs."""

from jaxmss.config import BYTESEP_SUBBAND, ResUNetConfig
from jaxmss.training.config import SYNTH, Checkpoints, Config, Data, Optim, Part, Validation, Watch


def get_config() -> Config:
    """Return a recipe for a few hundred thousand parameters: eight subbands and 43 frames a second.

    The residual map is bounded: in so short a warm-up an unbounded one soon pushes all magnitudes below zero, from
    where no gradient leads back.
    """
    return Config(
        ResUNetConfig(
            sources=("vocals",),
            subbands=8,
            n_fft=256,
            hop=128,
            maps=BYTESEP_SUBBAND,
            widths=(32, 40, 48, 48),
            blocks=1,
            bottleneck_levels=1,
            head_blocks=1,
            block_norm_momentum=0.05,
        ),
        Data(
            root=f"{SYNTH}data/synth",
            parts=(Part("vocals", ("vocals",)), Part("accompaniment", ("bass+drums+other",))),
            seconds=3.0,
            batch=4,
            threads=2,
        ),
        optim=Optim(lr=1e-3, warmup=0.2, decay=0.8, decay_every=0.3, ema=0.98),
        checkpoints=Checkpoints(every=100),
        validation=Validation(every=100),
        watch=Watch(every=10),
        hours=1.6,
    )
