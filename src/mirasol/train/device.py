"""The device that a recipe names, made the only one that this process sees."""

import os

from mirasol.answer.checkpoint import usable_device


def use_device(name: str) -> None:
    """Hide all CUDA devices but the named one; has to come before the first use of CUDA.

    Raises:
        ValueError: There is no such device here.
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
