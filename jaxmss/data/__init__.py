"""Data: tracks to evaluate on, and songs to train on, from their files to the batches that are mixed of them."""

from jaxmss.data.tracks import ACCOMPANIMENT, STEMS, Track, demo_tracks, find_tracks, select

__all__ = ["ACCOMPANIMENT", "STEMS", "Track", "demo_tracks", "find_tracks", "select"]
