"""The remedy for a refused image: how to convert it to a frame, (H, W, 3) uint8 RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def conversion(image: Any) -> str:
    """Advice to convert an image to a frame, for the end of an error message.

    Args:
        image: a PIL image, a tensor on any device, an array of another shape or dtype, or something else.
    Returns "give EXPRESSION", in terms of `frame` and `np`, where an expression makes the frame, else a sentence.
    """
    if image is None:
        return "the image was not read: check its path"
    code = "frame"
    if isinstance(image, torch.Tensor):
        half = image.dtype == torch.bfloat16  # numpy has no such dtype
        code = f"frame.detach().cpu(){'.float()' if half else ''}.numpy()"
        image = (image.detach().cpu().float() if half else image.detach().cpu()).numpy()
    elif hasattr(image, "convert"):  # PIL's
        if not image.mode.startswith(("I", "F")):
            return 'give np.asarray(frame.convert("RGB"))'
        code, image = "np.asarray(frame)", np.asarray(image)  # PIL cuts off levels above 255
    if not isinstance(image, np.ndarray):
        return "read an image with lorat_plugin.video.read_image, a video with lorat_plugin.video.open_source"
    if image.ndim == 4 and len(image) == 1:
        code, image = f"{code}[0]", image[0]
    if image.ndim == 3 and image.shape[2] not in _CHANNELS and image.shape[0] in _CHANNELS:
        code, image = f"{code}.transpose(1, 2, 0)", image.transpose(1, 2, 0)
    if image.ndim == 2:
        code, image = f"{code}[..., None]", image[..., None]
    if image.ndim != 3 or image.shape[2] not in _CHANNELS:
        return "give one image at a time, grey or red, green and blue"
    channels = {1: "np.repeat({}, 3, 2)", 3: "{}", 4: "{}[..., :3]"}[image.shape[2]]
    if image.dtype == np.uint8 or image.size == 0:
        return f"give {channels.format(code)}"
    if image.dtype.kind not in "buif":
        return "give levels from 0 to 255 as uint8"
    least, most = float(image.min()), float(image.max())
    if image.dtype == bool or (image.dtype.kind == "f" and 0 <= least <= most <= 1):
        code = f"np.rint(255 * {code})"
    elif image.dtype.kind in "ui" and least >= 0 and 255 < most < 2**16:
        code = f"({code} >> 8)"
    elif not 0 <= least <= most <= 255:
        return f"its values go from {least:g} to {most:g}: give levels from 0 to 255 as uint8"
    return f"give {channels.format(f'{code}.astype(np.uint8)')}"
