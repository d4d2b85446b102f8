"""Audio files: finding, reading, resampling and writing them, block by block, in NumPy alone.

Waveforms are float32 arrays of shape (c, t). Nothing here imports JAX, and nothing holds a whole file in memory
unless its name says so (`reading.read`, `resampling.resample`).
"""
