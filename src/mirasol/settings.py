"""User settings of recipes and `mirasol init`: `key=value` overrides, unknown keys, and YAML."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from mirasol.model.configuration_mirasol import MirasolConfig

# Other programs' words for our keys.
MEANINGS = {
    "optimizer.learning_rate": ("lr", "lr_rate", "rate", "step_size"),
    "optimizer.weight_decay": ("wd", "decay", "l2"),
    "optimizer.warmup_fraction": ("warmup", "warmup_ratio", "warmup_steps"),
    "optimizer.final_learning_rate_fraction": ("min_lr", "min_learning_rate", "min_lr_rate"),
    "optimizer.gradient_clip": ("clip", "max_grad_norm", "grad_clip", "clip_grad"),
    "optimizer.ema_decay": ("ema", "average"),
    "optimizer.betas": ("beta", "beta1", "beta2", "adam_beta1", "adam_beta2", "momentum"),
    "optimizer.epsilon": ("eps", "adam_epsilon"),
    "optimizer.name": ("optim", "optimiser", "muon", "adamw"),
    "schedule.batch_size": ("batch", "bs", "per_device_train_batch_size", "train_batch_size"),
    "schedule.finetune_epochs": ("epochs", "num_epochs", "num_train_epochs", "max_epochs"),
    "schedule.gradient_accumulation_steps": ("accumulate", "grad_accum", "accumulation", "accumulation_steps"),
    "schedule.time_limit_minutes": ("minutes", "time_limit", "max_time"),
    "processor.frames_per_second": ("fps", "frame_rate"),
    "processor.image_size": ("size", "resolution", "img_size", "image"),
    "processor.max_chunks": ("chunks", "num_chunks"),
    "processor.model_max_length": ("max_length", "context", "max_seq_length", "max_tokens"),
    "processor.crop_fraction": ("crop",),
    "data.num_workers": ("workers", "dataloader_num_workers"),
    "data.sources": ("dataset", "datasets", "source", "manifest", "tasks", "task", "root", "also"),
    "model.checkpoint": ("pretrained", "from_pretrained", "init_from", "resume", "weights"),
    "model.lora": ("peft", "adapter"),
    "model.attn_implementation": ("attention", "attn"),
    "validation.metric": ("metric_for_best_model",),
    "validation.every_epochs": ("eval_every", "eval_steps", "eval_epochs"),
    "output": ("out", "output_dir", "out_dir", "folder", "dir", "run"),
    "bf16": ("fp16", "precision", "mixed_precision", "amp"),
    "export.license": ("licence",),
}
_MEANT = {word: key for key, words in MEANINGS.items() for word in words}


class Loader(yaml.SafeLoader):
    """YAML with the floats of YAML 1.2, so that 3e-4 is a number."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets each `key=value` in the nested mapping; dots go one mapping (or, by number, list) down, values are YAML."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f'Expected an override as key=value, found "{override}": write e.g. seed=1.')
        try:
            value = yaml.load(text, Loader)
        except yaml.YAMLError as error:
            raise ValueError(
                f'Expected YAML behind "=" in the override "{override}", found: {one_line(error)}.'
            ) from error
        *parents, last = key.strip().split(".")
        held: Any = values
        for parent in parents:
            held = held[_place(parent, held, override)] if isinstance(held, list) else held.setdefault(parent, {})
            if not isinstance(held, dict | list):
                raise ValueError(f'Override "{override}" goes into {parent}, which holds {held!r}, not keys.')
        held[_place(last, held, override) if isinstance(held, list) else last] = value


def one_line(error: BaseException) -> str:
    """Return the error's text without its line breaks."""
    return " ".join(str(error).split())


def unknown_key(
    key: str, known: Iterable[str], prefix: str = "", everywhere: Sequence[str] = (), what: str = "Recipe key"
) -> str:
    """Return the message for an unknown key, with the nearest valid one by meaning, part or spelling.

    Args:
        key: The key, without its prefix.
        known: Valid keys at this place.
        prefix: Dotted place of the key, with its last dot.
        everywhere: All valid dotted keys, where the key may belong elsewhere.
        what: Kind of key, as the user calls it.
    """
    known = sorted(known)
    meant = _MEANT.get(key.lower(), "")
    leaf = meant.rsplit(".", 1)[-1]
    by_meaning = [f"{prefix}{leaf}"] if leaf in known else [meant] if meant and meant in everywhere else []
    holding = [name for name in known if key in name]
    here = [f"{prefix}{near}" for near in holding or difflib.get_close_matches(key, known, n=1)]
    same_leaf = [dotted for dotted in everywhere if dotted.rsplit(".", 1)[-1] == key]
    anything = [f"{prefix}{name}" for name in difflib.get_close_matches(key, known, n=1, cutoff=0)]
    nearest = (by_meaning or here or same_leaf or anything)[0]
    return (
        f'{what} "{prefix}{key}" is not known; the nearest valid key is "{nearest}". '
        f"Known here: {', '.join(known)}. Rename or remove it."
    )


def reject_unknown_fields(overrides: dict[str, Any], prefix: str = "", what: str = "Recipe key") -> None:
    """Raise ValueError for keys that `MirasolConfig` and its parts do not have; transformers accepts them silently."""
    config = MirasolConfig()
    _reject(overrides, config, prefix, what)
    for name, value in overrides.items():
        part = getattr(config, name)
        if isinstance(part, PreTrainedConfig):
            if not isinstance(value, dict):
                raise ValueError(
                    f"{what} {prefix}{name} holds keys of its own, found {value!r}: write {prefix}{name}.KEY=VALUE."
                )
            _reject(value, part, f"{prefix}{name}.", what)


@contextlib.contextmanager
def values_that_fit() -> Iterator[None]:
    """Raise the ValueError inside a config's validation error."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def _reject(keys: Iterable[Any], config: PreTrainedConfig, prefix: str, what: str) -> None:
    known = [name for name in config.to_dict() if not name.startswith("_")]
    for key in map(str, keys):
        if key not in known:
            raise ValueError(unknown_key(key, known, prefix, what=what))


def _place(name: str, held: list, override: str) -> int:
    if name.isdecimal() and int(name) < len(held):
        return int(name)
    raise ValueError(
        f'Override "{override}" names entry {name} of a list of {len(held)}: number them from 0 to {len(held) - 1}.'
    )
