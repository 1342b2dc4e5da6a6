"""Labels and loss against the official implementation's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin.crop import cells_on_target
from lorat_plugin.network import Prediction
from lorat_plugin.training.recipe import lorat_loss


@pytest.mark.parametrize(("size", "grid"), [(224, 16), (378, 27)])
def test_positive_cells_match(golden: Path, size: int, grid: int) -> None:
    data = np.load(golden / "training" / "labels.npz")
    found = [np.flatnonzero(cells_on_target(box, size, grid)) for box in data[f"boxes_px_{size}"]]
    assert [len(f) for f in found] == data[f"count_{size}"].tolist()
    assert np.array_equal(np.concatenate(found), data[f"indices_{size}"])


def _case(golden: Path, case: str) -> tuple[dict[str, np.ndarray], Prediction, torch.Tensor, torch.Tensor]:
    stored = np.load(golden / "training" / "loss.npz")
    data = {k.removeprefix(f"{case}_"): stored[k] for k in stored.files if k.startswith(case)}
    scores = torch.from_numpy(data["score_logits"]).requires_grad_()
    boxes = torch.from_numpy(data["boxes"]).requires_grad_()
    positive = torch.zeros(scores.shape[0], scores[0].numel(), dtype=torch.bool)
    positive[torch.from_numpy(data["pos_batch_idx"]), torch.from_numpy(data["pos_map_idx"])] = True
    return data, Prediction(scores, boxes), torch.from_numpy(data["gt_boxes_norm"]), positive.view_as(scores)


@pytest.mark.parametrize("case", ["a", "b"])
def test_loss_and_gradients_match(golden: Path, case: str) -> None:
    data, prediction, true, positive = _case(golden, case)
    losses = lorat_loss(prediction, true, positive)
    losses.total.backward()  # type: ignore[no-untyped-call]
    for name, got in (("loss", losses.total), ("loss_cls", losses.cls), ("loss_giou", losses.box)):
        np.testing.assert_allclose(got.detach().numpy(), data[name][0], rtol=1e-6)
    np.testing.assert_allclose(prediction.score_map.grad, data["grad_score"], atol=1e-7)  # type: ignore[arg-type]
    np.testing.assert_allclose(prediction.boxes.grad, data["grad_boxes"], atol=1e-7)  # type: ignore[arg-type]


def test_loss_in_parts_equals_the_whole(golden: Path) -> None:
    _, prediction, true, positive = _case(golden, "a")
    whole = lorat_loss(prediction, true, positive).total
    count = float(positive.sum())
    parts = [
        lorat_loss(Prediction(prediction.score_map[i : i + 2], prediction.boxes[i : i + 2]), true[i : i + 2],
                   positive[i : i + 2], count).total
        for i in (0, 2)
    ]  # fmt: skip
    torch.testing.assert_close(sum(parts), whole)


def test_loss_without_positive_cells_is_finite() -> None:
    prediction = Prediction(torch.zeros(2, 4, 4), torch.rand(2, 4, 4, 4))
    losses = lorat_loss(prediction, torch.rand(2, 4), torch.zeros(2, 4, 4, dtype=torch.bool))
    assert torch.isfinite(torch.stack(losses)).all()
    assert float(losses.box) == 0
