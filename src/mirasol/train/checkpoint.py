"""Checkpoints of a run (torch.distributed.checkpoint), saved and resumed by any number of processes.

A checkpoint is valid if every file has the size and checksum in its manifest, which is written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mirasol.files import crc32_of, write_whole
from mirasol.train.record import find_checkpoints, step_of

STATE = "state"
MANIFEST = "whole.json"


def save_state(folder: Path, model: nn.Module, optimizer: Any, average: nn.Module | None) -> None:
    """Write weights, optimizer state and averaged weights; every process writes its shards (a collective call)."""
    from torch.distributed import checkpoint

    state = _weights(model, average) | _optimizer_state(model, optimizer)
    with _one_process_is_fine():
        checkpoint.save(state, checkpoint_id=folder / STATE)


def load_state(folder: Path, model: nn.Module, optimizer: Any, average: nn.Module | None) -> None:
    """Load weights, optimizer state and average from a checkpoint of any number of processes."""
    from torch.distributed import checkpoint

    state = _weights(model, average)
    saved: dict[str, Any] = checkpoint.FileSystemReader(folder / STATE).read_metadata().state_dict_metadata
    if missing := sorted(set(state) - set(saved)):
        raise ValueError(
            f"Expected every weight of the model in {folder}, found that {len(missing)} are missing, {missing[0]} "
            "first: it is a checkpoint of another recipe. Give a new folder with output=..."
        )
    parameters, kept = dict(model.named_parameters()), _state_by_parameter(optimizer)
    for key in [key for key in saved if key.startswith("optimizer/")]:
        _, name, field = key.split("/")
        parameter, size, dtype = parameters[name], saved[key].size, saved[key].properties.dtype
        is_like_weight = size == parameter.shape and parameter.ndim > 0
        empty = torch.empty_like(parameter, dtype=dtype) if is_like_weight else torch.empty(size, dtype=dtype)
        state[key] = kept[id(parameter)][field] = empty.detach()
    with _one_process_is_fine():
        checkpoint.load(state, checkpoint_id=folder / STATE)


@contextlib.contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _weights(model: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    parts = {"model": model} | ({} if average is None else {"average": average})
    return {
        f"{part}/{name}": tensor.detach()
        for part, module in parts.items()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def _optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    kept = _state_by_parameter(optimizer)
    return {
        f"optimizer/{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in kept.get(id(parameter), {}).items()
    }


def _state_by_parameter(optimizer: Any) -> dict[int, dict[str, Tensor]]:
    """Return the optimizer's state of each parameter, by the parameter's id."""
    parts = getattr(optimizer, "parts", {"": optimizer}).values()
    return {id(p): part.state[p] for part in parts for group in part.param_groups for p in group["params"]}


def digests(folder: Path, files: list[str]) -> dict[str, list[int]]:
    """Flush these files of a folder to the disk; return the size and CRC-32 of each."""
    found = {}
    for name in files:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            checksum = crc32_of(file)
            found[name] = [file.tell(), checksum]
    return found


def files_of(folder: Path) -> list[str]:
    """Return the files of a checkpoint other than its manifest."""
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return [name for name in files if name != MANIFEST]


def seal(folder: Path, found: dict[str, list[int]]) -> None:
    """Write the manifest, which makes a checkpoint whole."""
    write_whole(folder / MANIFEST, json.dumps(found, indent=0))


def fault_of(folder: Path) -> str | None:
    """Return the fault of a checkpoint, None if it is whole."""
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = digests(folder, [name for name in expected if (folder / name).is_file()])
    except (OSError, ValueError) as error:
        return f"its manifest or a file cannot be read ({error})"
    for name, (size, checksum) in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} has {found[name][0]} bytes instead of {size}"
        if found[name][1] != checksum:
            return f"{name} has other bytes than were written"
    return None


def newest_whole(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, None if there are no checkpoints; warn of newer ones that are torn.

    Raises:
        ValueError: There are checkpoints, and all are torn.
    """
    torn: list[str] = []
    for checkpoint in reversed(find_checkpoints(folder)):
        if (fault := fault_of(checkpoint)) is None:
            if torn:
                warnings.warn(f"{'; '.join(torn)}. Resuming from step {step_of(checkpoint)} instead.", stacklevel=2)
            return checkpoint
        torn.append(f"{checkpoint} is torn: {fault}")
    if torn:
        raise ValueError(
            f"Expected a whole checkpoint, found {len(torn)} torn: {'; '.join(torn)}. Begin a new run with "
            f"output=NEW_FOLDER model.checkpoint={folder.parent / 'best'}, or delete {folder} to begin this one anew."
        )
    return None
