"""Parallel training: replicas (DDP), shards of the weights (FSDP2), or both (HSDP).

The weights are sharded here, with PyTorch's `fully_shard`, before the Trainer gets the model: the Trainer's own switch
is silently DDP on CPU, and transformers' `DistributedConfig` cannot resume.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

    from mirasol.train.recipe_schema import ParallelRecipe

BYTES_PER_PARAMETER = 20  # float32 weight, gradient, two of AdamW's moments and average
STATE_SHARE = 0.5  # of a device's memory that this state may fill; activations take the rest


@dataclass(frozen=True)
class Layout:
    """`data` replicas of the weights, each split over `shard` processes."""

    data: int = 1
    shard: int = 1

    def __str__(self) -> str:
        if self.shard == 1:
            return "one process" if self.data == 1 else f"DDP: {self.data} replicas"
        return f"FSDP2: {self.shard} shards" + (f" x {self.data} replicas (HSDP)" if self.data > 1 else "")


def num_processes() -> int:
    """Return the number of processes of this launch, as torchrun states it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agreed_by_all(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function on the first process; return its result, or raise its error, on every process."""
    found: list[Any] = [None, None]
    if int(os.environ.get("RANK", "0")) == 0:
        try:
            found[0] = function(*arguments)
        except (ValueError, OSError) as error:
            found[1] = error
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def share_of_step(batch_size: int, accumulation: int, begun: int, now: int) -> tuple[int, int]:
    """Return batch size and accumulation for `now` processes, so that a step keeps its clips.

    Args:
        batch_size, accumulation: Per process of the `begun` processes that the run began with.
    """
    micro_batches = accumulation * begun
    if micro_batches % now == 0:
        return batch_size, micro_batches // now
    clips = batch_size * micro_batches
    if clips % now:
        fitting = ", ".join(str(number) for number in range(1, clips + 1) if clips % number == 0)
        raise ValueError(
            f"Expected processes that share the {clips} clips of a step evenly, found {now}: the run began with "
            f"{begun} process(es) of {batch_size} clips (x {accumulation} accumulated). Start one of {fitting} "
            "(torchrun --nproc-per-node), or begin a new run from it with model.checkpoint=BEST output=NEW_FOLDER."
        )
    size = math.gcd(batch_size, clips // now)  # divides the recipe's, so that a batch stays of one source
    return size, clips // now // size


def choose_layout(
    wanted: ParallelRecipe, num_parameters: int, memory: int | None = None, world: int | None = None,
    local: int | None = None,
) -> Layout:  # fmt: skip
    """Return the recipe's layout with defaults filled in; raise ValueError if the number of processes differs.

    By default the weights are sharded within each machine if their training state fills half of a GPU's `memory`
    (bytes, None on CPU), and replicated otherwise. `world` and `local`, the number of processes and of those on one
    machine, are by default this launch's.
    """
    world = world or num_processes()
    local = local or int(os.environ.get("LOCAL_WORLD_SIZE", world))
    data, shard = wanted.data, wanted.shard
    if data is None and shard is None:
        is_large = memory is not None and num_parameters * BYTES_PER_PARAMETER > memory * STATE_SHARE
        shard = local if is_large else 1
    data = world // (shard or 1) if data is None else data
    shard = world // data if shard is None else shard
    if data * shard != world:
        whole = data * shard if None not in (wanted.data, wanted.shard) else f"a multiple of {wanted.data or shard}"
        raise ValueError(
            f"Expected parallel.data x parallel.shard to be the number of processes, found {wanted.data or 'auto'} x "
            f"{wanted.shard or 'auto'} for {world} process(es): start {whole} (torchrun --nproc-per-node), or "
            "change the recipe's parallel section (leave it out to choose by memory)."
        )
    return Layout(data, shard)


def shard_weights(model: nn.Module, layout: Layout, device: torch.device) -> None:
    """Shard the model's weights in place: each layer of a class in `_no_split_modules`, then the rest.

    Raises:
        ValueError: A declared class matches no layer. Its layers would be one unit with the rest, gathered whole at
            every step, which costs the memory that sharding saves.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = {name: [m for m in model.modules() if type(m).__name__ == name] for name in layer_classes(model)}
    if absent := [name for name, found in layers.items() if not found]:
        raise ValueError(
            f"Expected layers of class {', '.join(absent)}, which {type(model).__name__}._no_split_modules declares, "
            "found none in the model: correct the names there, or train without parallel.shard."
        )
    mesh = init_device_mesh(device.type, (layout.data, layout.shard), mesh_dim_names=("data", "shard"))
    mesh = mesh if layout.data > 1 else mesh["shard"]
    # A scalar cannot be split; the Trainer averages the gradients of whole parameters.
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    for parameter in scalars:
        parameter.data = parameter.data.to(device)
    # Views as outputs are safe here, because nothing is computed in place on them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for module in [module for found in layers.values() for module in found] + [model]:
        fully_shard(module, mesh=mesh, ignored_params=scalars)
    model._is_fsdp_managed_module = True  # type: ignore[assignment]  # transformers' Trainer asks


def layer_classes(model: nn.Module) -> Sequence[str]:
    """Return the classes of layers that are sharded as one unit each, as the model declares them."""
    if not (declared := getattr(model, "_no_split_modules", None)):
        raise ValueError(
            f"Expected {type(model).__name__}._no_split_modules to name the classes of its layers, found {declared}: "
            "declare them, or train it without parallel.shard."
        )
    return sorted(declared)


def skeleton(model: nn.Module) -> nn.Module:
    """Return a copy of the model on the meta device, made before sharding, for `filled`."""
    return filled(model, [tensor.to("meta") for tensor in tensors_of(model)])


def filled(model: nn.Module, tensors: Sequence[Tensor]) -> nn.Module:
    """Return a copy of the model that holds these tensors in place of its own; tied weights stay tied."""
    memo = {
        id(mine): nn.Parameter(tensor.detach(), mine.requires_grad) if isinstance(mine, nn.Parameter) else tensor
        for mine, tensor in zip(tensors_of(model), tensors, strict=True)
    }
    return copy.deepcopy(model, memo)


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return parameters and buffers, in an order that is equal before and after sharding."""
    return [*model.parameters(), *model.buffers()]


def is_sharded(tensor: Tensor) -> TypeIs[DTensor]:
    """True if this process holds only a part of the tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole tensor; a collective call."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of the tensor, without a copy."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def apart_by_layout(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parameter groups, each split into sharded and whole tensors, because a fused step cannot mix them."""
    split = []
    for group in groups:
        for kind in (True, False):
            if parameters := [parameter for parameter in group["params"] if is_sharded(parameter) == kind]:
                split.append({**group, "params": parameters})
    return split


def any_of_shards(flags: Tensor, like: Tensor) -> Tensor:
    """Return which flags (float, 0 or 1) are set on any process that holds a part of `like`."""
    if not is_sharded(like):
        return flags
    from torch.distributed.tensor import DTensor, Partial

    placements = [Partial("max") if place.is_shard() else place for place in like.placements]
    return DTensor.from_local(flags, like.device_mesh, placements, run_check=False).full_tensor()


def on_whole_matrices(function: Callable[[Tensor], Tensor], stacked: Tensor, like: Tensor) -> Tensor:
    """Apply a function of whole matrices to matrices of which each process holds some rows.

    The processes exchange rows, so that each computes the function of its share of the matrices, and exchange back.

    Args:
        function: (matrix row column) -> the same shape.
        stacked: This process's rows of matrices of one shape, (matrix row column).
        like: One of the matrices, as it is sharded.
    """
    if not is_sharded(like):
        return function(stacked)
    from torch.distributed.tensor import DTensor, Shard

    mesh, places = like.device_mesh, like.placements
    by_row = [Shard(1) if place.is_shard() else place for place in places]
    by_matrix = [Shard(0) if place.is_shard() else place for place in places]
    shape = torch.Size([len(stacked), *like.shape])
    known: dict[str, Any] = {"shape": shape, "stride": torch.empty(shape, device="meta").stride(), "run_check": False}
    mine = DTensor.from_local(stacked, mesh, by_row, **known).redistribute(placements=by_matrix).to_local()
    done = DTensor.from_local(function(mine), mesh, by_matrix, **known)
    return done.redistribute(placements=by_row).to_local()
