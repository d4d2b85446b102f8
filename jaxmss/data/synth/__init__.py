"""Songs made by rule, free of rights: a data set to try, test and time training with, in the layout of MUSDB18-HQ.

A song is written (`score`, `melody`), played (`drums`, `bass`, `harmony`) and sung (`voice`), mixed (`mix`) and stored
(`dataset`). Nothing here imports JAX.
"""

from jaxmss.data.synth.dataset import write

__all__ = ["write"]
