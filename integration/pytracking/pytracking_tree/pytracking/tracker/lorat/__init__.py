"""LoRAT as a tracker of pytracking: belongs in pytracking/tracker/lorat. The work is done by lorat_plugin."""

from pytracking.tracker.base.basetracker import BaseTracker

from lorat_plugin.harness.pytracking import Follower


class LoRAT(BaseTracker):
    """One target or several, as the sequence has them."""

    multiobj_mode = "default"  # several targets take one pass a frame

    def __init__(self, params):
        super().__init__(params)
        self.follower = Follower(params)

    def initialize(self, image, info):
        """Start on the targets of the first frame."""
        return self.follower.initialize(image, info)

    def initialize_features(self):
        """Called by the video, webcam and VOT modes; the constructor has loaded the model already."""

    def track(self, image, info=None):
        """Follow them into the next frame."""
        return self.follower.track(image, info)


def get_tracker_class():
    """What pytracking asks this package for."""
    return LoRAT
