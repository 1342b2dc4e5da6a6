"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorat_plugin.training.state import trained_parameters

PREFIX = "ema."  # of its tensors' names in a state


class WeightAverage:
    """Average of a network's trained parameters; buffers are not averaged. A decay of 0 averages nothing.

    The decay of step t (0-based) is at most (1 + t) / (10 + t), so that the first steps do not linger
    (torch.optim.swa_utils leaves this to its caller, as does timm).
    """

    def __init__(self, network: nn.Module, decay: float, tensors: dict[str, torch.Tensor]) -> None:
        """Begin with a network's weights, or go on with those of a state."""
        self.decay = decay
        self.parameters = trained_parameters(network) if decay else {}
        self.average = {
            name: tensors.get(PREFIX + name, parameter).detach().clone().to(parameter.device)
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the 0-based `step`."""
        if self.decay:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this the network has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a state keeps of it."""
        return {PREFIX + name: tensor.cpu() for name, tensor in self.average.items()}
