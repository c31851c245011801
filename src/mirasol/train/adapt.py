"""Choice of the weights to train: parts are frozen, and the text decoder is adapted by LoRA."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mirasol.train.recipe_schema import LoraRecipe, ModelRecipe

TOWERS = ("video_encoder", "audio_encoder", "combiner", "temporal_model")
ENCODER, DECODER, HEAD = "model.encoder.", "model.decoder.", "lm_head."
NEW_IN_DECODER = ("cross_attention", "time_projection")  # what no language model has
ADAPTED = r"layers\.\d+\.(self_attention\.[qkvo]_proj|(gate|up|down)_proj)"
ADAPTER = "default"


def adapt(model: nn.Module, recipe: ModelRecipe) -> None:
    """Freeze the recipe's parts of the model and add LoRA to its language model, in place."""
    freeze(model, recipe.freeze)
    if recipe.lora is not None:
        add_lora(model, recipe.lora)


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze the weights of these parts, in place; layers that two towers share are frozen with either.

    The part `language_model` is the text decoder without its cross-attention, which must be trained.
    """
    for parameter in parameters_of(model, parts, "model.freeze"):
        parameter.requires_grad_(False)


def parameters_of(model: nn.Module, parts: Sequence[str], key: str) -> list[nn.Parameter]:
    """Return the parameters of these parts; raise ValueError, naming the recipe's `key`, for an absent part."""
    chosen: list[nn.Parameter] = []
    for part in parts:
        found = [parameter for name, parameter in model.named_parameters() if belongs(name, part)]
        if not found:
            raise ValueError(f"Recipe key {key} names {part}, which this model does not have. Leave it out.")
        chosen += found
    return chosen


def belongs(name: str, part: str) -> bool:
    """True if the parameter of this name belongs to the part, as recipes name parts."""
    if part in TOWERS:
        return name.startswith(f"{ENCODER}{part}.")
    return name.startswith((DECODER, HEAD)) and not any(new in name for new in NEW_IN_DECODER)


def add_lora(model: nn.Module, recipe: LoraRecipe) -> None:
    """Add low-rank adapters (arXiv 2106.09685) to the language model, in place, and freeze its own weights.

    The decoder's cross-attention, which no language model has, is trained in full, as are the parts before it.
    """
    from peft import LoraConfig, inject_adapter_in_model

    freeze(model, ["language_model"])
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # a factor, which peft declares as int
        lora_dropout=recipe.dropout,
        target_modules=ADAPTED,
        bias="none",
    )
    inject_adapter_in_model(config, model.get_submodule(DECODER.rstrip(".")), adapter_name=ADAPTER)
    for parameter, is_trained in trained:  # peft freezes all but its own
        parameter.requires_grad_(is_trained)


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights with the adapters merged in, by the names of a model without adapters."""
    own = {name: weight for name, weight in model.state_dict().items() if ".lora_" not in name}
    state = {name.replace(".base_layer.", "."): weight for name, weight in own.items()}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(ADAPTER)
    return state
