"""Music source separation in JAX."""
