"""The one table of LoRAT variants. Everything that follows from a row is a property."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args, get_type_hints

from lorat_plugin.errors import InputError


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
    drop_path: float = 0.0  # rate of stochastic depth while training, the same in all blocks
    head: Literal["mlp", "conv"] = "mlp"
    normalization: Literal["imagenet", "clip", "symmetric", "none"] = "imagenet"  # of the input; see `crop`
    position: Literal["shared", "separate"] = "shared"  # one position table and token types, or a table for each image
    network: str = "lorat"  # name of its class, see `networks`

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
    def lora_scaling(self) -> float:
        """Factor of B A in an adapted layer: alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732)."""
        return self.lora_alpha / (self.lora_rank**0.5 if self.rslora else self.lora_rank)

    @property
    def trained_modules(self) -> list[str]:
        """Names of the modules that are trained whole, beside adapters."""
        types = ["token_type_embed"] if self.position == "shared" else []
        return [*types, "head", *(["norm"] if self.train_norm else [])]

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
    plain = name.lower().translate(_SEPARATORS)
    known = {registered.lower().translate(_SEPARATORS): variant for registered, variant in _VARIANTS.items()}
    if plain in known:
        return known[plain]
    variant = known.get(plain.removesuffix("baseline"))
    return variant and baseline(variant)


def baseline(variant: Variant) -> Variant:
    """What the paper compares LoRAT with: a position table for each image, no token types, a convolutional head."""
    if (variant.head, variant.position) == ("conv", "separate"):
        return variant
    return replace(variant, name=f"{variant.name}_baseline", head="conv", position="separate")


def register_variant(variant: Variant) -> None:
    """Make a variant of another package known by its name. Raises InputError if the name is taken by another."""
    if find_variant(variant.name) not in (None, variant):
        raise InputError(f"variant '{variant.name}' exists already with other sizes: choose another name")
    _VARIANTS[variant.name] = variant
