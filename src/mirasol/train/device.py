"""Restrict this process to the device that a recipe names."""

import os

from mirasol.answer.checkpoint import usable_device


def use_device(name: str) -> None:
    """Hide all CUDA devices but the named one; to be called before the first use of CUDA.

    Raises:
        ValueError: This machine has no such device.
    """
    kind, _, number = name.partition(":")
    if number:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        there = visible.split(",") if visible else None
        if there is not None and int(number) >= len(there):
            raise ValueError(f"Expected a device out of CUDA_VISIBLE_DEVICES={visible}, found {name}: name another.")
        os.environ["CUDA_VISIBLE_DEVICES"] = number if there is None else there[int(number)]
    if kind != "auto":
        usable_device(kind)
