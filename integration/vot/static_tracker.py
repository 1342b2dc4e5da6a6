"""The simplest tracker for the VOT toolkit, to see beside LoRAT: each object stays where it was in its first frame.

An entry for trackers.ini, with absolute paths:

    [Static]
    label = Static
    protocol = trax
    command = /path/to/python /path/to/static_tracker.py
"""

import trax


def main() -> None:
    """Answer until the toolkit quits. One process serves all sequences and any number of objects."""
    regions: list[trax.Region] = []
    with trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], multiobject=True) as server:
        while (request := server.wait()).type != "quit":
            if request.type == "initialize":
                regions = []
            regions += [region for region, _ in request.objects or ()]
            server.status([(region, {}) for region in regions])


if __name__ == "__main__":
    main()
