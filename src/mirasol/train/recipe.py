"""Recipes as text: YAML and `key=value` -> `Recipe`, and back; every error names the key and the remedy."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mirasol.data.augment import PRESETS
from mirasol.settings import Loader, apply_overrides, one_line, unknown_key
from mirasol.tasks.base import nearest
from mirasol.train.recipe_schema import DataRecipe, Recipe

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
BOUNDS = {
    "greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"), "less_than": ("lt", "below"),
}  # fmt: skip


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in the YAML file at `path`, with overrides such as `optimizer.learning_rate=3e-4`."""
    path = Path(path)
    values = json.loads(
        json.dumps(read_recipe(path), default=str)
    )  # a copy, because values of a YAML alias are shared
    data = values.setdefault("data", {})
    if isinstance(data, dict):
        (default,) = DataRecipe().sources
        data.setdefault("sources", [{"task": default.task, "root": default.root}])
        _expand_augmentation(data)
    apply_overrides(values, overrides)
    if isinstance(data, dict):
        _expand_augmentation(data)
    try:
        # As JSON, because strict types accept a JSON list as a tuple.
        return Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ValueError(_refusal(error)) from error


def read_recipe(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a recipe file merged over the file that it `extends`; a list replaces a list."""
    if not path.is_file():
        by = f", which {extending[-1]} extends" if extending else ""
        raise ValueError(f"Expected a recipe file, found nothing at {path}{by}: pass the path of a YAML recipe.")
    if path.resolve() in extending:
        raise ValueError(f"Expected recipes that extend others, found {path} extending itself: correct `extends`.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected YAML in {path}, found: {one_line(error)}. Correct that line.") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected key: value lines in {path}, found {str(values)[:40]!r}. Write e.g. seed: 1.")
    if (other := values.pop("extends", None)) is None:
        return values
    return _over(read_recipe(path.parent / str(other), (*extending, path.resolve())), values)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _over(below[key], above[key])
    return merged


def to_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return every leaf of a recipe by its dotted key; entries of a list of sections are numbered."""
    value = value.model_dump() if isinstance(value, Recipe) else value
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {prefix.rstrip("."): value}
    return {key: leaf for name, item in value.items() for key, leaf in flatten(item, f"{prefix}{name}.").items()}


def _expand_augmentation(data: dict[str, Any]) -> None:
    """Replace the augmentation presets that `data` and its sources name by their values, in place."""
    sources = data.get("sources")
    for section in (data, *(sources if isinstance(sources, list) else ())):
        given = section.get("augmentation") if isinstance(section, dict) else None
        name = given.get("preset") if isinstance(given, dict) else given
        if not isinstance(name, str):
            continue
        if name not in PRESETS:
            raise ValueError(
                f"Recipe key augmentation expects a preset out of {', '.join(PRESETS)}, or a mapping of keys, found "
                f"{name!r}. Did you mean {nearest(name, PRESETS)!r}?"
            )
        changed = {key: value for key, value in given.items() if key != "preset"} if isinstance(given, dict) else {}
        section["augmentation"] = json.loads(json.dumps(asdict(PRESETS[name]))) | changed


def _fields(place: Sequence[str | int]) -> dict[str, Any]:
    """Return the fields of the section at this place, by name."""
    section: Any = Recipe
    for name in place:
        if isinstance(name, str):
            section = _section(section.__pydantic_fields__[name].annotation)
    return section.__pydantic_fields__


def _section(annotation: Any) -> Any:
    """Return the section in a type such as `tuple[SourceRecipe, ...] | None`, or None."""
    if hasattr(annotation, "__pydantic_fields__"):
        return annotation
    return next(filter(None, map(_section, typing.get_args(annotation))), None)


def _dotted(section: Any = Recipe, prefix: str = "") -> Iterator[str]:
    """Yield every key of a recipe, entries of lists as number 0."""
    for name, field in section.__pydantic_fields__.items():
        yield f"{prefix}{name}"
        if inner := _section(field.annotation):
            number = "0." if typing.get_origin(field.annotation) is tuple else ""
            yield from _dotted(inner, f"{prefix}{name}.{number}")


def _refusal(error: ValidationError) -> str:
    """Return the message of the first error: expected, found, remedy."""
    (first, *_) = error.errors(include_url=False)
    kind, place, found = first["type"], list(first["loc"]), first["input"]
    context = first.get("ctx", {})
    key = ".".join(map(str, place))
    if kind == "value_error":
        return str(context["error"])
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, name = place
        prefix = "".join(f"{part}." for part in parents)
        return unknown_key(str(name), _fields(parents), prefix, list(_dotted(Recipe)))
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return f"Recipe key {key} must be {words} {context[bound]:g}, found {found!r}: change it."
    if kind == "literal_error":
        options = context["expected"].replace(" or ", ", ").replace("'", "")
        return f"Recipe key {key} must be one of {options}, found {found!r}."
    if kind == "missing" and isinstance(place[-1], str):
        return f"Recipe key {key} is missing, found only {', '.join(found)}: write {place[-1]}: VALUE there."
    if kind in ("missing", "too_long", "too_short", "tuple_type"):
        *parents, name = place[:-1] if kind == "missing" else place
        key = ".".join(map(str, [*parents, name]))
        annotation = _fields(parents)[str(name)].annotation
        options = [annotation, *typing.get_args(annotation)]
        inner = typing.get_args(next(option for option in options if typing.get_origin(option) is tuple))
        count = "1 or more" if ... in inner else len(inner)
        return f"Recipe key {key} expects a list of {count} values, found {found!r}: write [a, b]."
    wanted = KINDS.get(kind.split("_")[0])
    if wanted is None:
        wanted = "a finite number" if kind == "finite_number" else "a mapping of keys"
    return f"Recipe key {key} expects {wanted}, found {found!r} ({type(found).__name__})."
