"""Settings as classes, from which the command line derives its options: of a tracker, and of a benchmark of speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorat_plugin.engines import list_engines, list_precisions
from lorat_plugin.errors import InputError
from lorat_plugin.variants import get_variant

if TYPE_CHECKING:
    from typing_extensions import Self

    from lorat_plugin.network import LoRATNetwork
    from lorat_plugin.tracker import LoRATTracker, MultiObjectTracker

ENGINE_NAMES = ", ".join(list_engines())  # looks at every installed package, so once
T = TypeVar("T", "LoRATTracker", "MultiObjectTracker")


def described(default: Any, text: str, **details: Any) -> Any:
    """A field of a dataclass with its help, and more arguments of `typer.Option`."""
    return field(default=default, metadata={"help": text, **details})


@dataclass(frozen=True)
class TrackerSettings:
    """Names and meanings are those of `LoRATTracker.from_pretrained`; each field's metadata holds its help."""

    model: str = described("lorat_tiny", "Variant, e.g. lorat_tiny, lorat_b_224, or a hub id.")
    weights: str | None = described(None, "Weights: a file or an adapter folder. Bundled ones if left out.")
    backbone: str | None = described(None, "DINOv2 file that completes weights without a backbone.")
    device: str = described("auto", "auto, cpu, cuda, cuda:1, mps.")
    engine: str = described("auto", f"Inference engine: auto, {ENGINE_NAMES}.")
    precision: str = described("auto", f"auto, {', '.join(list_precisions())}.")
    absent_below: float | None = described(
        0.0,
        "Score below which the target counts as absent and is searched for, e.g. 0.5; 0: never. Left out: the weights'"
        " own in track, app and annotate, never elsewhere.",
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Settings by name, as in configuration files; an empty text stands for the default.

        Raises InputError for an unknown name, or a threshold that is not a number.
        """
        names = [field.name for field in fields(cls)]
        if unknown := values.keys() - set(names):
            raise InputError(f"LoRAT has no setting '{min(unknown)}': use {', '.join(names)}")
        given = {name: value for name, value in values.items() if value not in (None, "")}
        try:
            given["absent_below"] = float(given.get("absent_below", 0))
        except (TypeError, ValueError):
            got = given["absent_below"]
            raise InputError(f"absent_below must be a number from 0 to 1, e.g. 0.3; got {got!r}") from None
        return cls(**given)

    def given(self) -> dict[str, Any]:
        """Name -> value of the settings that differ from the defaults, and the model."""
        default = type(self)()
        return {k: v for k, v in vars(self).items() if k == "model" or v != getattr(default, k)}

    def check(self) -> None:
        """Raise InputError for a device, engine, precision or threshold that cannot be used, before weights load."""
        from lorat_plugin.engines import check_options
        from lorat_plugin.presence import check_threshold

        check_options(self.device, self.engine, self.precision)
        check_threshold(self.absent_below or 0.0)

    def absolute(self) -> Self:
        """These settings, checked, with absolute paths, since toolkits start trackers in other folders.

        Raises InputError as `check`, and for a model without weights or a file that does not exist.
        """
        from lorat_plugin.models import bundled_weights, is_weights  # imports torch

        self.check()
        model = self.model
        if self.weights is not None:
            get_variant(model)
        elif is_weights(model):
            model = _absolute("--model", model)
        elif bundled_weights(get_variant(model)) is None:
            raise InputError(f"{model} has no bundled weights: give its file by --weights")
        weights = None if self.weights is None else _absolute("--weights", self.weights)
        backbone = None if self.backbone is None else _absolute("--backbone", self.backbone)
        return replace(self, model=model, weights=weights, backbone=backbone)

    def network(self) -> LoRATNetwork:
        """The network with its trained weights. Raises InputError as `check` and `load_pretrained`."""
        from lorat_plugin.models import load_pretrained

        self.check()
        return load_pretrained(self.model, self.weights, self.backbone)

    def load(self, tracker: type[T]) -> T:
        """A tracker of this class. Raises InputError as its `from_pretrained`."""
        return tracker.from_pretrained(**vars(self))


@dataclass(frozen=True)
class SpeedTrial:
    """Contestants of a benchmark of speed, and how they are run.

    Contestants are engines ("all" for every one that runs here, "autocast" for `eager` as the official code runs it),
    modes of training or data sets. The reference takes part even if it is not among them, and an engine with those of
    the precisions that it has. `on_round` is called after each round.
    """

    contestants: tuple[str, ...] = described(("eager", "fused"), f"From auto, {ENGINE_NAMES}; all.", flag="--engine")
    reference: str = described("eager", "The contestant that the others are compared with.", flag="--baseline")
    precisions: tuple[str, ...] = described(
        ("auto",), f"From auto, {', '.join(list_precisions())}.", flag="--precision"
    )
    rounds: int = described(10, "Rounds that count, after warming up.", min=1)
    device: str = described("auto", "auto, cpu, cuda, cuda:1, mps.")
    threads: int = described(0, "Compute threads; 0: torch decides.", min=0)
    on_round: Callable[[], None] = lambda: None


def _absolute(option: str, source: str) -> str:
    from lorat_plugin.checkpoints.layouts import SUFFIXES

    if source and Path(source).exists():  # Path("") is the current folder
        return str(Path(source).absolute())
    if "/" not in source or source.endswith(SUFFIXES):
        raise InputError(f"{option} {source or '(empty)'} does not exist: give a file, an adapter folder or a hub id")
    return source  # a hub id
