"""Whole runs: what they leave, resuming, failing, sharing a batch among processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lorat_plugin import load_checkpoint
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.training import launch
from lorat_plugin.training.config import load_config
from lorat_plugin.training.dry_run import replay
from lorat_plugin.training.journal import read_journal
from lorat_plugin.training.launch import train
from lorat_plugin.training.methods import training_network
from lorat_plugin.training.recipe import Batch, collate, make_optimizer, train_step
from lorat_plugin.training.sources import open_pairs
from lorat_plugin.training.state import STATE_NAME, check_room, gather_state
from lorat_plugin.variants import register_variant
from tests.helpers.sequences import write_clip
from tests.helpers.sharded import PAIRS, STEPS
from tests.helpers.toy import TOY, toy_config

ROOT = Path(__file__).parents[2]


def state_of(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{step:07d}" / STATE_NAME)


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


def start(
    out: Path, *settings: str, processes: int = 1, restarts: int = 0, module: str = "toy"
) -> subprocess.Popen[str]:
    """A run of its own, under torchrun if there are several processes."""
    command = [sys.executable, "-m", f"tests.helpers.{module}", str(out), *settings]
    if processes > 1:
        parts = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
        command[1:2] = ["-m", "torch.distributed.run", *parts, "-m"]
    # restarted processes must not meet the addresses of those before in torchrun's store
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def here(out: Path, *settings: str) -> None:
    """The same in this process, which saves its start."""
    train(toy_config(**dict(pair.split("=") for pair in settings)), out)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


class Stop(Exception):
    pass


def stop_at(step: int):
    def stop(done: int, text: str) -> None:
        if done == step:
            raise Stop

    return stop


def test_what_a_run_leaves(tmp_path: Path) -> None:
    config = toy_config(loggers=("tensorboard",))
    weights = train(config, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "best", "checkpoints", "config.yaml", "curve.png", "data.json", "log.jsonl", "tensorboard", weights.name,
    }  # fmt: skip
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step_0000002", "step_0000004"]
    assert load_config(str(tmp_path / "config.yaml")) == config
    assert load_checkpoint(weights).variant == TOY
    assert list((tmp_path / "tensorboard").glob("events*"))
    rows = read_journal(tmp_path / "log.jsonl")
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in rows if "val_loss" in r] == [2, 4]


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    train(toy_config(checkpoint_every=1, keep=1, validate_every=4), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_0000004"]


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    changes = {"drop_path": 0.3}  # draws at random in every step
    train(toy_config(**changes), tmp_path / "whole")
    with pytest.raises(Stop):
        train(toy_config(**changes), tmp_path / "parts", on_step=stop_at(3))
    train(toy_config(**changes), tmp_path / "parts")
    assert_close(state_of(tmp_path / "whole", 4), state_of(tmp_path / "parts", 4), 1e-7)
    rows = read_journal(tmp_path / "parts" / "log.jsonl")
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]


def test_a_run_whose_data_changed_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "clips" / "one")
    changes = {"clips": str(tmp_path / "clips"), "steps": 2}
    train(toy_config(**{**changes, "steps": 1}), tmp_path / "run")
    write_clip(tmp_path / "clips" / "one", seed=7)
    with pytest.raises(CheckpointError, match=r"data have changed since, in files of clips .*remove .*data\.json"):
        train(toy_config(**changes), tmp_path / "run")
    write_clip(tmp_path / "clips" / "one")
    train(toy_config(**changes), tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    train(toy_config(**{**changes, "steps": 3}), tmp_path / "run")
    assert "no record of the data" in caplog.text


def test_a_run_can_start_from_anothers_state_or_from_weights(tmp_path: Path) -> None:
    weights = train(toy_config(steps=2), tmp_path / "first")
    still = {"steps": 1, "lr": 1e-9, "final_lr": 1e-9}
    train(toy_config(init_from=str(tmp_path / "first"), **still), tmp_path / "state")
    first, second = state_of(tmp_path / "first", 2), state_of(tmp_path / "state", 1)
    names = [name for name in first if name.startswith("weight.")]
    assert_close({n: first[n] for n in names}, {n: second[n] for n in names}, 1e-6)
    train(toy_config(init_from=str(tmp_path / "state"), **still), tmp_path / "next")  # a chain of runs
    third = state_of(tmp_path / "next", 1)
    assert_close({n: first[n] for n in names}, {n: third[n] for n in names}, 1e-6)
    tuned = train(toy_config(init_from=str(weights), **still), tmp_path / "weights")
    assert_close(load_file(weights), load_file(tuned), 1e-6)
    kept = tmp_path / "weights" / "checkpoints" / "step_0000001" / "weights.safetensors"
    assert_close(load_file(weights), load_file(kept), 1e-6)  # the whole network: its adapters fit no DINOv2
    with pytest.raises(InputError, match="start from its merged weights"):
        train(toy_config(init_from=str(tmp_path / "weights")), tmp_path / "third")


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    settings = ["steps=12", "checkpoint_every=3", "validate_every=12", "epoch_size=16"]
    here(tmp_path / "whole", *settings)
    process = start(tmp_path / "parts", *settings)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("8 "):  # in mid-epoch, two steps after a checkpoint
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    here(tmp_path / "parts", *settings)
    assert_close(state_of(tmp_path / "whole", 12), state_of(tmp_path / "parts", 12), 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["mode=full"], ["micro_batch=1", "checkpointing=true"]])
def test_two_processes_do_what_one_does_with_the_whole_batch(tmp_path: Path, settings: list[str]) -> None:
    common = ["steps=20", "batch_size=4", "checkpoint_every=20", "validate_every=20", *settings]
    here(tmp_path / "one", *common)
    finish(start(tmp_path / "two", *common, processes=2))
    assert_close(state_of(tmp_path / "one", 20), state_of(tmp_path / "two", 20), 1e-5)


@pytest.mark.slow
def test_a_run_is_restarted_after_a_process_dies_and_may_change_its_number(tmp_path: Path) -> None:
    settings = ["steps=8", "batch_size=3", "checkpoint_every=2", "validate_every=8"]
    here(tmp_path / "one", *settings)
    process = start(tmp_path / "many", *settings, processes=2, restarts=1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "many" / "checkpoints" / "step_0000002").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output = finish(process)
    assert "exitcode: -9" in output  # it was killed before its end, not after
    assert_close(state_of(tmp_path / "one", 8), state_of(tmp_path / "many", 8), 1e-5)


@pytest.mark.slow
def test_sharded_parameters_train_and_are_saved_like_whole_ones(tmp_path: Path) -> None:
    finish(start(tmp_path, processes=2, module="sharded"))
    torch.manual_seed(0)
    network = training_network(toy_config())
    optimizer = make_optimizer(network, toy_config())
    batch = collate([open_pairs(toy_config())[i] for i in range(PAIRS)])
    for _ in range(STEPS):
        train_step(Accelerator(cpu=True), network, optimizer, batch, 1e-3, toy_config())
    assert_close(gather_state(network, optimizer), load_file(tmp_path / "sharded.safetensors"), 1e-6)
    assert_close(load_file(tmp_path / "sharded.safetensors"), load_file(tmp_path / "again.safetensors"), 0)


def test_a_loss_that_is_not_finite_stops_the_run_and_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Batch.to

    def broken(self: Batch, device: torch.device) -> Batch:
        batch = whole(self, device)
        batch.template[0, 0, 0, 0] = float("inf")
        return batch

    monkeypatch.setattr(Batch, "to", broken)
    with pytest.raises(InputError, match=r"step 0: the loss is nan.*--replay"):
        train(toy_config(), tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "not_finite_step_0000000"
    assert replay(folder) == ["share 0: the template of pair 0 is not finite"]
    with pytest.raises(InputError, match="holds no step to replay"):
        replay(tmp_path)


def test_replay_names_the_first_layer_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = launch.training_network

    def with_broken_layer(config):
        network = make(config)
        with torch.no_grad():
            network.head.cls_mlp.layers[1].bias.fill_(float("nan"))
        return network

    monkeypatch.setattr(launch, "training_network", with_broken_layer)
    with pytest.raises(InputError, match="the loss is nan"):
        train(toy_config(), tmp_path)
    assert "head.cls_mlp.layers.1" in replay(tmp_path / "not_finite_step_0000000")[0]


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    train(toy_config(steps=1), tmp_path)
    other = replace(TOY, name="lorat_training_toy_2", lora_rank=2)
    register_variant(other)
    with pytest.raises(CheckpointError, match="another variant, mode or rank"):
        train(toy_config(variant=other.name), tmp_path)
    (tmp_path / "checkpoints" / "step_0000001" / STATE_NAME).write_bytes(b"\x10\x00\x00\x00cut short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(toy_config(), tmp_path)
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        train(toy_config(), tmp_path, resume="never")
    with pytest.raises(CheckpointError, match=r"holds no state\.safetensors"):
        train(toy_config(), tmp_path, resume=str(tmp_path / "absent"))


def test_a_full_disk_is_seen_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GB are free, but"):
        check_room(tmp_path / "run", 10**15, toy_config(), 0)


def test_bfloat16_with_checkpointing_trains(tmp_path: Path) -> None:
    train(toy_config(precision="bf16", checkpointing=True, steps=2), tmp_path / "half")
    exact = {k: v for k, v in state_of(tmp_path / "half", 2).items() if k.startswith("weight.")}
    assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in exact.values())


@pytest.mark.slow
def test_compiling_goes_on_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["steps=2", "validate_every=2"]
    here(tmp_path / "plain", *settings)
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    finish(start(tmp_path / "compiled", "compile=true", *settings))
    assert_close(state_of(tmp_path / "plain", 2), state_of(tmp_path / "compiled", 2), 1e-6)


@pytest.mark.parametrize("what", [{"validation_datasets": "trackingnet"}, {"validation_clips": "no/such/folder"}])
def test_validation_data_that_are_missing_stop_a_run_before_it_writes(tmp_path: Path, what: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"trackingnet|no/such/folder"):
        train(toy_config(**what), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_or_missing_trackers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown logger 'scroll'"):
        train(toy_config(loggers=("scroll",)), tmp_path)
    assert not list(tmp_path.iterdir())
