"""What an exported folder says of how to run it."""

import json

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.train.build import build_processor
from mirasol.train.export import export
from mirasol.train.recipe import load_recipe
from mirasol.train.resolve import resolve


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
