"""The devices of a run, through Lightning Fabric: one process, or several that train together."""

import functools
import logging
import os
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from crossd.errors import InputError
from crossd.nn.layers import contiguous
from crossd.training.config import RunOptions

Part = TypeVar("Part")

_joined: Fabric | None = None


def seed_everything(seed: int) -> None:
    """Seed every generator of random numbers, as Lightning Fabric does."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    random.seed(seed)


def share() -> tuple[int, int]:
    """Return this process's number and how many train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def single_device(precision: str) -> Fabric:
    """Return a Fabric of one device."""
    return _joined or _alone(precision)


@functools.lru_cache(maxsize=8)
def _alone(precision: str) -> Fabric:
    return _made(precision, 1, 1, "auto")


def _made(precision: str, devices: int, nodes: int, strategy: str | Strategy) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric(
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )


def join(config: RunOptions, unused: bool = False) -> Fabric:
    """Return the Fabric of all processes that train together, starting them where need be.

    Under ``torchrun``, ``fabric run`` and Slurm those that these started are joined; otherwise this
    command is started once for each further device.

    With `unused`, some parameters may take no part in some steps.

    Raises:
        InputError: When there are no such devices, or the strategy does not fit.
    """
    global _joined
    if _joined is not None:
        return _joined
    devices, nodes = _started(config)
    if devices * nodes == 1:
        return _alone(config.precision)
    try:
        strategy = _strategy(config.strategy, devices * nodes, unused)
        fabric = _made(config.precision, devices, nodes, strategy)
        if os.environ.get("LT_CLI_USED", "0") == "0":  # fabric run has joined the processes already
            fabric.launch()
    except Exception as error:  # of torch and Lightning, by many names
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"--devices {devices} --num-nodes {nodes} --strategy {config.strategy}: {why}"
        ) from error
    _joined = fabric
    return fabric


def _started(config: RunOptions) -> tuple[int, int]:
    """Return the devices a node and the nodes: as asked for, or as what started us says."""
    env = os.environ
    if TorchElasticEnvironment.detect():
        here = int(env["LOCAL_WORLD_SIZE"])
        return here, int(env["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect() and int(env.get("SLURM_NTASKS", 1)) > 1:
        machines = int(env.get("SLURM_NNODES", 1))
        return int(env["SLURM_NTASKS"]) // machines, machines
    devices = int(env.get("LT_DEVICES") or config.devices)  # of fabric run
    if devices == -1:
        devices = max(1, torch.cuda.device_count())
    return devices, int(env.get("LT_NUM_NODES") or config.num_nodes)


def _strategy(name: str, processes: int, unused: bool) -> Strategy:
    if name == "fsdp":
        return ModelParallelStrategy(_sharded, processes, 1, save_distributed_checkpoint=False)
    return DDPStrategy(find_unused_parameters=unused)


def _sharded(net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Keep a share of the parameters, their gradients and the optimiser's state in each process."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(contiguous(net), mesh=mesh["data_parallel"])
    return net


def feeding(fabric: Fabric, loader: DataLoader[Part]) -> DataLoader[Part]:
    """Return a loader whose batches are on a Fabric's device."""
    ready = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    assert not isinstance(ready, list)
    return ready


def gather_lists(parts: Sequence[Part]) -> list[Part]:
    """Put lists of all processes together, taking from each in turn."""
    world = share()[1]
    if world == 1:
        return list(parts)
    every: list[list[Part]] = [[] for _ in range(world)]
    dist.all_gather_object(every, list(parts))
    return [part for several in zip(*every, strict=True) for part in several]


def largest_over_processes(values: Sequence[float]) -> list[float]:
    """Return the largest of each value over all processes."""
    if share()[1] == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float32, device=_joined.device if _joined else None)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    found: list[float] = tensor.tolist()
    return found


def dtype_of(net: nn.Module) -> torch.dtype:
    """Return the type of a network's parameters, in which it wants its input."""
    return next((p.dtype for p in net.parameters()), torch.float32)


def is_sharded(net: nn.Module) -> bool:
    """Tell whether a process holds a share of a network only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(net, FSDPModule)


def whole_state(
    net: nn.Module, optimizer: Optimizer | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of a network and its optimiser, whole; every process must ask."""
    if not is_sharded(net):
        return net.state_dict(), {} if optimizer is None else optimizer.state_dict()
    from torch.distributed.checkpoint import state_dict as states

    options = states.StateDictOptions(full_state_dict=True)
    weights = states.get_model_state_dict(net, options=options)
    if optimizer is None:
        return weights, {}
    return weights, states.get_optimizer_state_dict(net, optimizer, options=options)


def load_whole_state(
    net: nn.Module, optimizer: Optimizer, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    """Put what `whole_state` gave back."""
    if not is_sharded(net):
        net.load_state_dict(weights)
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint import state_dict as states

    options = states.StateDictOptions(full_state_dict=True)
    states.set_model_state_dict(net, weights, options=options)
    states.set_optimizer_state_dict(net, optimizer, state, options=options)
