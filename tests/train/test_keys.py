"""docs/training.md lists every key of a recipe with its default and the schema's comment on it."""

import inspect
import json
import re
from collections.abc import Iterator

from pydantic import BaseModel

from mirasol.train.recipe_schema import LoraRecipe, Recipe, SourceRecipe

SECTIONS = {"sources": ("data.sources.N.", SourceRecipe), "lora": ("model.lora.", LoraRecipe)}  # not there by default


def rows(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(section), re.M))
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel) and name != "augmentation":
            yield from rows(type(field.default), f"{prefix}{name}.")
        elif name in SECTIONS:
            place, inner = SECTIONS[name]
            yield from rows(inner, place)
        else:
            default = "" if field.is_required() else json.dumps(field.default, default=lambda value: "gentle")
            yield f"| `{prefix}{name}` | {default.strip(chr(34))} | {comments.get(name, '')} |"


def test_the_guide_lists_every_key(repository):
    guide = (repository / "docs" / "training.md").read_text(encoding="utf-8").splitlines()
    found = [line for line in guide if re.match(r"\| `[\w.]+` \| [^|]*\| [^|]*\|$", line)]
    assert found == list(rows()), "\n".join(["copy these rows:", *rows()])
