"""Programs as users run them: the tests' own are compiled without optimisation, in a fifth of the time or less."""

from __future__ import annotations

import functools

import jax

OPTIONS = {"xla_backend_optimization_level": "3", "xla_cpu_use_fusion_emitters": True}  # XLA's own defaults

jit = functools.partial(jax.jit, compiler_options=OPTIONS)
