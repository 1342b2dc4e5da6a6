"""What the network should say about a search crop: which cells lie on the target."""

from __future__ import annotations

import numpy as np

from lorat_plugin.boxes import clip_to_image, rasterize


def positive_cells(box_xyxy: np.ndarray, size: int, grid: int) -> np.ndarray:
    """Cells of the score map that the target touches: all of them are positive.

    Args:
        box_xyxy: (4,) float64, crop pixels, already clipped to the crop.
        size: side of the search crop, pixels.
        grid: cells along a side.
    Returns (grid, grid) bool. Source: LoRAT (arXiv 2403.05231), whole-box assignment.
    """
    x1, y1, x2, y2 = clip_to_image(rasterize(box_xyxy * (grid / size)), (grid, grid))
    mask = np.zeros((grid, grid), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask
