"""Keyword arguments of the processor, flat or in transformers' groups, sorted by recipient."""

from collections.abc import Mapping
from typing import Any

CHUNK_OPTIONS = ("sampling", "max_chunks", "use_video", "use_audio")
PIXELS = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
GROUPS = {
    "text_kwargs": ("padding", "padding_side", "max_length"),
    "images_kwargs": PIXELS,
    "videos_kwargs": PIXELS,
    "audio_kwargs": ("sampling_rate",),
}
FLAT = (*CHUNK_OPTIONS, "num_chunks", *(name for names in GROUPS.values() for name in names), "return_tensors")


def sort_options(kwargs: Mapping[str, Any], tokenizer_defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort keywords: those of `chunk_clip` under "chunks", those of each part under the name of its group.

    Args:
        kwargs: Keywords of a call. A value of None counts as not given.
        tokenizer_defaults: `padding` and `max_length` that the tokenizer was made with; a call's come first.

    Raises:
        TypeError: A keyword is unknown: ignoring it would be silently wrong.
        ValueError: A keyword given twice, or `return_tensors` other than "pt".
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in ("chunks", *GROUPS)}
    text = GROUPS["text_kwargs"]
    found["text_kwargs"] = {name: tokenizer_defaults[name] for name in text if name in tokenizer_defaults}
    given = {name: value for name, value in kwargs.items() if name not in (*GROUPS, "common_kwargs")}
    nested: list[tuple[str | None, str, Any]] = [
        (None, name, value) for name, value in (kwargs.get("common_kwargs") or {}).items()
    ]
    for part in GROUPS:
        for name, value in (kwargs.get(part) or {}).items():
            if name in given:
                raise ValueError(f"Keyword {name} was passed twice, in {part} and on its own: pass it once.")
            nested.append((part, name, value))
    for group, name, value in [*nested, *((None, name, value) for name, value in given.items())]:
        if name not in ((*GROUPS[group], "return_tensors") if group else FLAT):
            raise TypeError(
                f"MirasolProcessor got an unexpected keyword {name!r}{f' in {group}' if group else ''}; it takes "
                f"{', '.join(dict.fromkeys(GROUPS[group] if group else FLAT))}."
            )
        if name == "return_tensors" and value not in ("pt", None):
            raise ValueError(f"return_tensors must be 'pt', but it is {value!r}: Mirasol is a PyTorch model.")
        readers = [group] if group else [key for key, names in GROUPS.items() if name in names]
        if value is not None:
            for reader in readers or ["chunks"]:
                found[reader][name] = value
    found["chunks"].pop("return_tensors", None)
    return found
