"""Fixtures that many tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from lorat_plugin import create_model, save_checkpoint
from lorat_plugin.network import LoRATNetwork
from tests.helpers.golden_v2 import write_weights

torch.set_num_threads(1)  # tests are small: threads only cost them time
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Committed golden data."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' folder of larger data; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the developers' data folder is not here")
    return folder


@pytest.fixture(scope="session")
def golden2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRATv2's golden data, committed, with the weights that belong to them."""
    folder = tmp_path_factory.mktemp("golden") / "v2"
    shutil.copytree(GOLDEN / "v2", folder)
    write_weights(folder)
    return folder


@pytest.fixture(scope="session")
def golden2_whole(shared: Path) -> Path:
    """The developers' larger LoRATv2 data: the files of every official layout."""
    if not (shared / "golden/v2").is_dir():
        pytest.skip("LoRATv2's larger golden data are not here")
    return shared / "golden/v2"


@pytest.fixture(scope="session")
def tiny_network() -> LoRATNetwork:
    """lorat_tiny with random weights."""
    torch.manual_seed(0)
    return create_model("lorat_tiny", backbone="random")


@pytest.fixture(scope="session")
def tiny_weights(tiny_network: LoRATNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged weights file of lorat_tiny with random weights."""
    return save_checkpoint(tiny_network, tmp_path_factory.mktemp("weights") / "lorat_tiny.safetensors")


@pytest.fixture
def frames() -> list[np.ndarray]:
    """Six (90, 120, 3) uint8 RGB frames of a red square that moves over noise; it starts at x 30, y 20, side 16."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 120, (90, 120, 3), np.uint8)
    made = []
    for i in range(6):
        frame = background.copy()
        frame[20 + 2 * i : 36 + 2 * i, 30 + 3 * i : 46 + 3 * i] = (220, 40, 30)
        made.append(frame)
    return made
