"""`lorat app`: a local page to track objects through a video by drawing boxes (extra `app`)."""
