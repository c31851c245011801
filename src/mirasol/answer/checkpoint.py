"""Folder of a checkpoint -> model in evaluation mode and processor."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mirasol import DEFAULT_CHECKPOINT

SHIPPED = "shipped"
CALIBRATION = "calibration.json"  # written by `mirasol calibrate`
DTYPES = ("float32", "bfloat16", "float16")
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")


def folder_of(checkpoint: str | Path | None) -> Path:
    """Return the folder of a checkpoint; None and "shipped" name the checkpoint that comes with mirasol."""
    return DEFAULT_CHECKPOINT if checkpoint is None or str(checkpoint) == SHIPPED else Path(checkpoint)


def load_checkpoint(
    checkpoint: str | Path | None = None, device: Any = None, dtype: str | None = None
) -> tuple[Any, Any]:
    """Return (model, processor) of a checkpoint's folder, by default the shipped one.

    The default `dtype` is float32, which represents bf16 weights exactly and is faster on most CPUs.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from mirasol import MirasolForConditionalGeneration, MirasolProcessor

    folder = folder_of(checkpoint)
    check_checkpoint(folder)
    transformers.utils.logging.disable_progress_bar()  # nano loads in a tenth of a second
    if dtype not in (None, *DTYPES):
        raise ValueError(f"Expected dtype to be one of {', '.join(DTYPES)}, found {dtype!r}. float32 is the default.")
    device = usable_device(device)
    try:
        model, loaded = MirasolForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype or "float32"), output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise ValueError(
            f"Expected complete weights in {folder}, found a file that is cut off or no safetensors ({error}). "
            "Copy the folder again."
        ) from error
    # transformers only warns, and initialises missing weights at random.
    resized = {str(entry[0]) for entry in loaded["mismatched_keys"]}
    if wrong := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"], *resized}):
        raise ValueError(
            f"Expected in {folder} exactly the weights that its config.json describes, found {len(wrong)} missing, "
            f"unknown or of another shape, such as {wrong[0]}. Take config.json and weights of the same checkpoint."
        )
    processor = MirasolProcessor.from_pretrained(folder)
    processor.check_model_config(model.config)
    return model.to(device).eval(), processor


def load_temperature(folder: Path) -> float:
    """Return the temperature that `mirasol calibrate` stored with a checkpoint, else 1."""
    file = folder / CALIBRATION
    if not file.is_file():
        return 1.0
    try:
        temperature = float(json.loads(file.read_text(encoding="utf-8"))["temperature"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"Expected a temperature in {file}, found none ({error!r}). Run `mirasol calibrate` again, or delete it."
        ) from error
    if not 0 < temperature < float("inf"):
        raise ValueError(f"Expected a positive temperature in {file}, found {temperature}. Delete the file.")
    return temperature


def usable_device(name: Any = None) -> Any:
    """Return the device of this name, by default CUDA if available, else the CPU.

    Raises:
        ValueError: This machine has no such device.
    """
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"Expected a device of this machine ({', '.join(there)}), found {str(name)!r}: name another."
        ) from error
    return device


def digest_of_weights(folder: Path) -> str:
    """Return a digest of the checkpoint's weights, configs and tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja"):
            with file.open("rb") as data:
                digest.update(file.name.encode() + hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()[:16]


def check_checkpoint(folder: Path) -> dict:
    """Return the folder's config as a dict; raise ValueError if this is not a Mirasol checkpoint."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(
            f"Expected a checkpoint folder with config.json at {folder}, found "
            f"{'a folder without it' if folder.is_dir() else 'a file' if folder.exists() else 'nothing'}. "
            "Pass a folder written by `mirasol train` (its `best`) or by save_pretrained, or none for the shipped one."
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected JSON in {config_file}, found other text ({error}). Copy or save the checkpoint again."
        ) from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "mirasol":
        raise ValueError(
            f"Expected a checkpoint of model_type 'mirasol' in {folder}, found {model_type!r}. Mirasol "
            "cannot run other architectures: pass a folder written by `mirasol train`."
        )
    if absent := [name for name in PROCESSOR_FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"Expected the processor's files beside the weights in {folder}, found no {' and no '.join(absent)}. Copy "
            "the whole folder, or save the processor into it."
        )
    return config
