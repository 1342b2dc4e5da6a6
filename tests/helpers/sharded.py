"""A few steps of two processes that share the network's parameters too, as FSDP does; the state is gathered twice.

Run under torchrun with the folder to write to: `sharded.safetensors` after three steps, and `again.safetensors` after
that state was spread over a fresh sharded network and gathered once more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard

from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.methods import training_network
from lorat_plugin.training.recipe import collate, make_optimizer, train_step
from lorat_plugin.training.sources import open_pairs
from lorat_plugin.training.state import gather_state, spread_state
from tests.helpers.toy import toy_config

STEPS, PAIRS = 3, 4


def sharded(seed: int) -> tuple[LoRATNetwork, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = training_network(toy_config())
    for block in network.blocks:
        fully_shard(block)
    fully_shard(network)
    return network, make_optimizer(network, toy_config())


def main(out: Path) -> None:
    accelerator, config = Accelerator(cpu=True), toy_config()
    rank, ranks = accelerator.process_index, accelerator.num_processes
    batch = collate([open_pairs(config)[i] for i in range(rank, PAIRS, ranks)])
    network, optimizer = sharded(0)
    for _ in range(STEPS):
        train_step(accelerator, network, optimizer, batch, 1e-3, config)
    tensors = gather_state(network, optimizer)
    other, fresh = sharded(1)
    whole = tensors if accelerator.is_main_process else None
    objects = [whole]
    torch.distributed.broadcast_object_list(objects)
    spread_state(other, fresh, objects[0] or {}, out)
    again = gather_state(other, fresh)
    if accelerator.is_main_process:
        save_file(tensors, out / "sharded.safetensors")
        save_file(again, out / "again.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
