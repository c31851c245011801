"""Load a checkpoint's model with changed settings, such as an attention window or another Combiner."""

from __future__ import annotations

import warnings

from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.settings import reject_unknown_fields, values_that_fit
from mirasol.train.recipe_schema import ModelRecipe


def changed_config(checkpoint: str, recipe: ModelRecipe) -> MirasolConfig:
    """Return the checkpoint's config with the recipe's `overrides`."""
    reject_unknown_fields(recipe.overrides, "model.overrides.")
    values = MirasolConfig.from_pretrained(checkpoint).to_dict()
    for name, value in recipe.overrides.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    with values_that_fit():
        return MirasolConfig.from_dict(values)


def load_changed(checkpoint: str, recipe: ModelRecipe) -> MirasolForConditionalGeneration:
    """Return the checkpoint's model with the recipe's `overrides`.

    Weights that the checkpoint lacks, such as those of another kind of Combiner, are initialised; a warning counts
    them.

    Raises:
        ValueError: An override is not known, or changes the shape of the checkpoint's weights.
    """
    model, loaded = MirasolForConditionalGeneration.from_pretrained(
        checkpoint, config=changed_config(checkpoint, recipe), dtype="float32",
        attn_implementation=recipe.attn_implementation, output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    if resized := sorted(str(entry[0]) for entry in loaded["mismatched_keys"]):
        raise ValueError(
            f"Expected model.overrides that keep the shapes of the weights of {checkpoint}, found {len(resized)} "
            f"changed shapes, such as {resized[0]}: leave those keys out, or train from a preset."
        )
    if new := sorted(loaded["missing_keys"]):
        warnings.warn(
            f"{len(new)} weights are initialised, because {checkpoint} lacks them: {new[0]}, ...", stacklevel=2
        )
    return model
