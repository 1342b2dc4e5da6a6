"""Tracks in the formats of other tools, written and read, and as `supervision.Detections`."""

from lorat_plugin.interchange.detections import to_detections
from lorat_plugin.interchange.formats import FORMATS, TrackFiles, read_tracks, write_tracks
from lorat_plugin.interchange.tracks import Row, Tracks, VideoInfo

__all__ = ["FORMATS", "Row", "TrackFiles", "Tracks", "VideoInfo", "read_tracks", "to_detections", "write_tracks"]
