"""Programs as users run them: the tests' own are compiled without optimisation, which takes three quarters as long."""

from __future__ import annotations

import functools

import jax

OPTIONS = {"xla_backend_optimization_level": "3"}  # XLA's own default

jit = functools.partial(jax.jit, compiler_options=OPTIONS)
