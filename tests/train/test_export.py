"""What an exported folder says of how to run it."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.train.build import build_processor
from mirasol.train.export import export, model_card
from mirasol.train.recipe import load_recipe
from mirasol.train.recipe_schema import ExportRecipe
from mirasol.train.resolve import resolve
from mirasol.train.tokenizer import build_tokenizer
from tests.train.toy import ToyConfig, ToyModel, toy_recipe


def test_exported_model_generates_with_its_cache(untrained, repository, tmp_path):
    """The Trainer turns `use_cache` off in the model that it trains."""
    model = MirasolForConditionalGeneration.from_pretrained(untrained)
    model.config.use_cache = False
    recipe = resolve(load_recipe(repository / "recipes" / "grid_nano.yaml"))

    export(model, build_processor(recipe, ["what is said?"]), tmp_path / "best", recipe=recipe, record={})

    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "best" / name).read_text()).get("use_cache", True), name
    again = MirasolForConditionalGeneration.from_pretrained(tmp_path / "best")
    assert again.generation_config.use_cache is not False
    assert model.config.use_cache is False


@pytest.mark.parametrize(("dtype", "umask", "mode"), [("float32", 0o022, 0o644), ("bfloat16", 0o077, 0o600)])
def test_an_export_has_the_number_format_of_the_recipe_and_files_that_the_umask_allows(tmp_path, dtype, umask, mode):
    recipe = toy_recipe(tmp_path, export=ExportRecipe(dtype=dtype))
    tokenizer = build_tokenizer(["what is said?"], vocab_size=300)
    before = os.umask(umask)
    try:
        export(ToyModel(ToyConfig()), tokenizer, tmp_path / "best", recipe=recipe, record={})
    finally:
        os.umask(before)
    assert {weight.dtype for weight in load_file(tmp_path / "best" / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    files = list((tmp_path / "best").iterdir())
    assert "model.safetensors" in {file.name for file in files}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {mode}


@pytest.mark.parametrize(("license_", "line"), [(None, ""), ("cc-by-4.0", "\nlicense: cc-by-4.0\n")])
def test_the_card_names_the_licence_of_the_recipe_and_none_by_default(tmp_path, license_, line):
    head = model_card(toy_recipe(tmp_path, export=ExportRecipe(license=license_)), {}).split("---")[1]
    assert ("license" in head) == bool(line) and line in head
