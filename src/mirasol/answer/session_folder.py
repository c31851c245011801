"""A saved session: a folder with numbers (JSON) and tensors (safetensors), written atomically."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirasol.files import whole_folder

NUMBERS, TENSORS = "session.json", "session.safetensors"
FORMAT = 1


def save_state(folder: Path, made_of: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write a nested state of numbers, lists and tensors; `made_of` identifies its model and time grid."""
    if folder.exists() and not (folder / NUMBERS).is_file():
        raise ValueError(f"Expected a new folder or a saved session at {folder}, found other files. Name another.")
    tensors: dict[str, Tensor] = {}
    record = {"format": FORMAT, "made_of": made_of, "state": _to_json(state, tensors)}
    with whole_folder(folder) as partial:
        save_file(tensors, partial / TENSORS)
        (partial / NUMBERS).write_text(json.dumps(record), encoding="utf-8")
    return folder


def load_state(folder: Path, made_of: dict[str, Any]) -> dict[str, Any]:
    """Return the state saved in a folder; raise ValueError if its `made_of` differs."""
    try:
        record = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        found = {"format": record["format"], **record["made_of"]}
        for name, expected in {"format": FORMAT, **made_of}.items():
            if found.get(name) != expected:
                break
        else:
            return _from_json(record["state"], load_file(folder / TENSORS))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"Expected a saved session at {folder}, found none that is whole ({error}). Save it again."
        ) from error
    raise ValueError(
        f"Expected a session with the {name} {expected}, found in {folder} one with {found.get(name)}. Load it with "
        "the checkpoint that watched it."
    )


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value with each array replaced by the name of a tensor."""
    if isinstance(value, Tensor | np.ndarray):
        name = f"t{len(tensors)}"
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach().cpu()
        tensors[name] = tensor.clone().contiguous()
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, dict):
        return {key: _to_json(entry, tensors) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(entry, tensors) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def _from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"}:
        return tensors[value["tensor"]]
    if value.keys() == {"array"}:
        return tensors[value["array"]].numpy()
    return {key: _from_json(entry, tensors) for key, entry in value.items()}
