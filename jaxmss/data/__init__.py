"""Data: test tracks."""

from jaxmss.data.tracks import ACCOMPANIMENT, STEMS, Track, demo_tracks, find_tracks, select

__all__ = ["ACCOMPANIMENT", "STEMS", "Track", "demo_tracks", "find_tracks", "select"]
