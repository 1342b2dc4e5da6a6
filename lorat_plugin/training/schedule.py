"""Learning rate by update, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn


def learning_rate(
    update: int, *, peak: float, warmup: int, total: int, start: float = 1e-7, final: float = 1e-6
) -> float:
    """Learning rate of the 0-based `update`: linear warm-up from `start` to `peak`, then half a cosine to `final`.

    As in LoRAT's official training the rate lags one update behind (updates 0 and 1 share a rate), and the warm-up is
    put before a cosine of the full length `total`, which therefore stops a little before its end.
    """
    t = max(update - 1, 0)
    if t < warmup:
        return start + t * (peak - start) / warmup
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * (t - warmup) / total))


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, list[nn.Parameter] | list[str] | float]]:
    """Group the trainable parameters for AdamW: matrices decay, vectors and embeddings do not.

    Args:
        named: (name, parameter) in the network's order; frozen parameters are left out.
        weight_decay: of the first group.
    Returns up to three groups in order: matrices; parameters with at most one dimension longer than 1; names holding
    "embed" that are no single token type. Each has `params`, `names` and `weight_decay`. Source: LoRAT's settings.
    """
    matrices: list[tuple[str, nn.Parameter]] = []
    vectors: list[tuple[str, nn.Parameter]] = []
    embeddings: list[tuple[str, nn.Parameter]] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        long_dimensions = sum(n > 1 for n in parameter.shape)
        single = parameter.ndim == 2 and len(parameter) == 1  # one token type
        group = embeddings if "embed" in name and not single else matrices if long_dimensions > 1 else vectors
        group.append((name, parameter))
    return [
        {"params": [p for _, p in group], "names": [n for n, _ in group], "weight_decay": decay}
        for group, decay in ((matrices, weight_decay), (vectors, 0.0), (embeddings, 0.0))
        if group
    ]
