"""LoRAT as a tracker of OSTrack's tree: belongs in lib/test/tracker. The work is done by lorat_plugin."""

from lib.test.tracker.basetracker import BaseTracker

from lorat_plugin.harness.pytracking import Follower


class LoRAT(BaseTracker):
    """One target, as the sequences of this tree have."""

    def __init__(self, params, dataset_name=None):
        super().__init__(params)
        self.follower = Follower(params)

    def initialize(self, image, info):
        """Start on the target of the first frame."""
        return self.follower.initialize(image, info)

    def track(self, image, info=None):
        """Follow it into the next frame."""
        return self.follower.track(image, info)


def get_tracker_class():
    """What the tree asks this module for."""
    return LoRAT
