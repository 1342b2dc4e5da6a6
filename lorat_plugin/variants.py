"""The one table of LoRAT variants. Everything that follows from a row is a property."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

from lorat_plugin.errors import InputError

DINOV2_GRID = 37  # cells along a side of DINOv2's own position table


@dataclass(frozen=True)
class Variant:
    """Sizes of one LoRAT tracker; the defaults are the paper's (arXiv 2403.05231, section 4.1).

    Sizes are sides of square crops in pixels. An area factor f sets the side of a crop around a w x h target to
    sqrt((w + p) * (h + p)) with p = (f - 1) * (w + h) / 2: f times the target's side when it is square.
    """

    name: str
    backbone: str  # timm's name of the DINOv2 model whose blocks are used
    dim: int
    depth: int  # blocks used; fewer than the backbone has means its first ones
    heads: int
    ffn: Literal["mlp", "swiglu"]
    ffn_dim: int  # hidden width; of each half for SwiGLU
    template_size: int
    search_size: int
    search_area_factor: float
    template_area_factor: float = 2.0
    patch_size: int = 14
    lora_rank: int = 64
    lora_alpha: float = 64.0
    rslora: bool = False
    train_norm: bool = False  # the final norm fits only the backbone's last block: train it when blocks are left out
    window_weight: float = 0.45  # share of the Hann window in the penalised score map
    min_object_size: float = 10.0  # frame pixels; a smaller state box is widened before the search crop
    drop_path: float = 0.0  # rate of stochastic depth while training; LoRATv2: of the last block, rising from 0
    head: Literal["mlp", "conv"] = "mlp"
    normalization: Literal["imagenet", "clip", "symmetric", "none"] = "imagenet"  # of the input; see `crop`
    position: Literal["shared", "separate", "window"] = "shared"  # one table and token types; a table for each image;
    # or "window": the top-left cells of DINOv2's own table, and token types
    network: str = "lorat"  # name of its class, see `networks`
    chunks: int = 0  # images of LoRATv2: 2 in phase 1, 3 with a reference; 0 for other networks
    reference_size: int = 0  # of LoRATv2's reference, pixels; 0: none
    reference_area_factor: float = 4.0
    reference_from: Literal["next", "start"] = "next"  # frame of the first reference, which is cut around the start box
    update_above: float = 0.9  # score above which a frame gives a new reference
    clip_boxes: bool = True  # report boxes clipped to the frame

    def __post_init__(self) -> None:
        """Raise InputError for sizes that cannot work together."""
        for name in ("template_size", "search_size"):
            if getattr(self, name) < self.patch_size or getattr(self, name) % self.patch_size:
                raise InputError(
                    f"variant '{self.name}': {name} {getattr(self, name)} must be a multiple of {self.patch_size}"
                )
        if self.template_size > self.search_size:
            raise InputError(f"variant '{self.name}': the template must not be larger than the search region")
        if min(self.depth, self.heads, self.lora_rank) < 1 or self.dim % self.heads:
            raise InputError(
                f"variant '{self.name}': depth, heads and rank must be above 0, and dim a multiple of heads"
            )
        if self.reference_size % self.patch_size or self.reference_size < 0:
            raise InputError(
                f"variant '{self.name}': reference_size {self.reference_size} must be a multiple of {self.patch_size}"
            )
        if not 0 <= self.update_above <= 1:
            raise InputError(f"variant '{self.name}': update_above {self.update_above} must be a score from 0 to 1")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"variant '{self.name}': drop_path {self.drop_path} must be at least 0 and below 1")

    @property
    def template_grid(self) -> int:
        """Cells along a side of the template."""
        return self.template_size // self.patch_size

    @property
    def search_grid(self) -> int:
        """Cells along a side of the search region, and so of the score map."""
        return self.search_size // self.patch_size

    @property
    def search_grids(self) -> tuple[int, ...]:
        """Cells along a side of the reference, if there is one, and of the search region."""
        return tuple(size // self.patch_size for size in (self.reference_size, self.search_size) if size)

    @property
    def trained_chunks(self) -> range:
        """Chunks of LoRATv2 that are trained: both of phase 1, the last of phase 2."""
        return range(2 if self.reference_size else 0, self.chunks)

    @property
    def phase1(self) -> Variant:
        """LoRATv2's phase 1 of a phase 2, whose reference is the search region there."""
        return replace(
            self,
            name=f"{self.name}_phase1",
            search_size=self.reference_size,
            search_area_factor=self.reference_area_factor,
            reference_size=0,
            chunks=2,
        )

    @property
    def table_grid(self) -> int:
        """Cells along a side of the position table."""
        return DINOV2_GRID if self.position == "window" else self.search_grid

    @property
    def lora_scaling(self) -> float:
        """Factor of B A in an adapted layer: alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732)."""
        return self.lora_alpha / (self.lora_rank**0.5 if self.rslora else self.lora_rank)

    @property
    def trained_modules(self) -> list[str]:
        """Names of the modules and single parameters that are trained whole, beside adapters."""
        if self.chunks:
            last = self.chunks - 2  # of the search streams
            types = [f"search_region_token_type_embed.{last}"]
            types += ["template_token_type_embed"] if 0 in self.trained_chunks else []
            return [*types, f"heads.{last}", *([f"norms.{last}"] if self.train_norm else [])]
        types = ["token_type_embed"] if self.position == "shared" else []
        return [*types, "head", *(["norm"] if self.train_norm else [])]

    def trains(self, name: str) -> bool:
        """Whether a parameter is in one of `trained_modules`."""
        return f"{name}.".startswith(tuple(f"{module}." for module in self.trained_modules))

    def to_json(self) -> str:
        """All fields as JSON; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Variant:
        """The variant that `to_json` wrote. Raises InputError if it is damaged or has fields of a newer version."""
        try:
            values = json.loads(text)
            hints = get_type_hints(cls)
            for name, value in values.items():
                choices, kind = get_args(hints[name]), hints[name]
                if value not in choices if choices else not isinstance(value, (int, float) if kind is float else kind):
                    raise ValueError(f"{name} is {value!r}")
            return cls(**values)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise InputError(f"its description of the variant cannot be used ({error}): update the package") from error


_SIZES = {  # letter: (timm's name, dim, depth, heads, ffn, ffn_dim); DINOv2, arXiv 2304.07193, table 17
    "s": ("vit_small_patch14_dinov2", 384, 12, 6, "mlp", 1536),
    "b": ("vit_base_patch14_dinov2", 768, 12, 12, "mlp", 3072),
    "l": ("vit_large_patch14_dinov2", 1024, 24, 16, "mlp", 4096),
    "g": ("vit_giant_patch14_dinov2", 1536, 40, 24, "swiglu", 4096),
}
_SEPARATORS = str.maketrans("", "", "-_")  # do not count in names
_DROP_PATH = {"l": 0.1, "g": 0.4}
_GEOMETRIES = {"224": (112, 224, 4.0), "378": (196, 378, 5.0)}  # template, search px; search area factor

_VARIANTS: dict[str, Variant] = {
    f"lorat_{letter}_{name}": Variant(
        f"lorat_{letter}_{name}",
        *size,  # type: ignore[arg-type]
        *geometry,
        drop_path=_DROP_PATH.get(letter, 0.0),
    )
    for letter, size in _SIZES.items()
    for name, geometry in _GEOMETRIES.items()
}
_VARIANTS["lorat_tiny"] = Variant(  # real time on two CPU cores; bundled weights
    "lorat_tiny",
    backbone="vit_small_patch14_dinov2",
    dim=384,
    depth=6,
    heads=6,
    ffn="mlp",
    ffn_dim=1536,
    template_size=70,
    search_size=140,
    search_area_factor=4.0,
    lora_rank=32,
    lora_alpha=32.0,
    train_norm=True,
)
_PHASES: dict[str, dict[str, Any]] = {
    "224": {"search_size": 224, "search_area_factor": 4.0, "chunks": 2},
    "378": {"search_size": 378, "search_area_factor": 5.0, "chunks": 3, "reference_size": 224},
}
_VARIANTS |= {
    f"lorat2_{letter}_{name}": Variant(
        f"lorat2_{letter}_{name}",
        _SIZES[letter][0].replace("_dinov2", "_reg4_dinov2"),
        *_SIZES[letter][1:],  # type: ignore[arg-type]
        template_size=224,
        **phase,
        window_weight=0.4 if (letter, name) == ("l", "378") else 0.45,
        drop_path=_DROP_PATH.get(letter, 0.0),
        position="window",
        network="lorat2",
        clip_boxes=False,
    )
    for letter in "bl"
    for name, phase in _PHASES.items()
}
_VARIANTS["lorat2_tiny"] = replace(
    _VARIANTS["lorat_tiny"], name="lorat2_tiny", position="window", network="lorat2", chunks=2, clip_boxes=False
)


def list_variants() -> list[str]:
    """Names of all variants, registered ones included."""
    return list(_VARIANTS)


def get_variant(name: str) -> Variant:
    """The variant of that name; `LoRAT-B-224` and `lorat_b224` are understood too. Raises InputError if unknown.

    `NAME_baseline` is `baseline` of the variant NAME.
    """
    variant = find_variant(name)
    if variant is None:
        raise InputError(f"unknown model '{name}': use one of {', '.join(_VARIANTS)}")
    return variant


def find_variant(name: str) -> Variant | None:
    """As `get_variant`, but None if the name is unknown."""
    plain = name.lower().translate(_SEPARATORS).replace("loratv2", "lorat2")
    known = {registered.lower().translate(_SEPARATORS): variant for registered, variant in _VARIANTS.items()}
    if plain in known:
        return known[plain]
    variant = known.get(plain.removesuffix("baseline"))
    return variant and baseline(variant)


def baseline(variant: Variant) -> Variant:
    """What the paper compares LoRAT with: a position table for each image, no token types, a convolutional head."""
    if (variant.head, variant.position) == ("conv", "separate"):
        return variant
    if variant.network != "lorat":
        raise InputError(f"variant '{variant.name}' has no baseline: take one of the first LoRAT")
    return replace(variant, name=f"{variant.name}_baseline", head="conv", position="separate")


def register_variant(variant: Variant) -> None:
    """Make a variant of another package known by its name. Raises InputError if the name is taken by another."""
    if find_variant(variant.name) not in (None, variant):
        raise InputError(f"variant '{variant.name}' exists already with other sizes: choose another name")
    _VARIANTS[variant.name] = variant
