"""Tracks in the formats of other tools, written and read."""

from lorat_plugin.interchange.formats import FORMATS, read_tracks, write_tracks
from lorat_plugin.interchange.tracks import Row, Tracks, VideoInfo

__all__ = ["FORMATS", "Row", "Tracks", "VideoInfo", "read_tracks", "write_tracks"]
