"""LoRAT single-object tracking behind the interfaces of the GOT-10k and VOT toolkits.

>>> from lorat_plugin import LoRATTracker
>>> tracker = LoRATTracker.from_pretrained("lorat_tiny")
>>> tracker.init(frame, box)            # (H, W, 3) uint8 RGB; x, y, w, h in pixels
>>> result = tracker.update(next_frame)  # result.box, result.score
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorat_plugin.checkpoints.hub import push_to_hub, save_pretrained
    from lorat_plugin.checkpoints.loading import load_checkpoint
    from lorat_plugin.checkpoints.saving import save_checkpoint
    from lorat_plugin.models import create_model
    from lorat_plugin.tracker import LoRATTracker, MultiObjectTracker
    from lorat_plugin.tracking import TrackResult
    from lorat_plugin.variants import Variant, list_variants, register_variant

_HOMES = {
    "LoRATTracker": "tracker",
    "MultiObjectTracker": "tracker",
    "TrackResult": "tracking",
    "Variant": "variants",
    "create_model": "models",
    "list_variants": "variants",
    "load_checkpoint": "checkpoints.loading",
    "push_to_hub": "checkpoints.hub",
    "register_variant": "variants",
    "save_checkpoint": "checkpoints.saving",
    "save_pretrained": "checkpoints.hub",
}

__all__ = [
    "LoRATTracker",
    "MultiObjectTracker",
    "TrackResult",
    "Variant",
    "create_model",
    "list_variants",
    "load_checkpoint",
    "push_to_hub",
    "register_variant",
    "save_checkpoint",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562), so that `import lorat_plugin` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lorat_plugin' has no attribute '{name}'")
    return getattr(import_module(f"lorat_plugin.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
