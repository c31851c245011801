"""Peak memory of one GPU in a training step, by formula."""

from __future__ import annotations

from typing import Any

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.train.optimizer import layer_matrices
from mirasol.train.recipe_schema import Recipe

FP32 = 4
BF16 = 2
NORMS = 1.25  # activations kept, relative to bf16 alone: autocast keeps inputs and outputs of norms in fp32
PARTS = (  # in the order of the backward pass
    ("decoder", "lm_head"), ("temporal_model", "next_chunk"), ("combiner",), ("audio_encoder",), ("video_encoder",),
)  # fmt: skip


def state_bytes(model: MirasolForConditionalGeneration, recipe: Recipe, shards: int) -> dict[str, float]:
    """Return the bytes of one GPU that do not depend on the batch: weights, gradients, moments, sharded evenly.

    All are fp32. Only trained weights have gradients and moments: two, or one for the matrices that Muon updates.
    """
    every = sum(p.numel() for p in model.parameters())
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    moments = {name: 2 * count for name, count in trained.items()}
    if recipe.optimizer.name == "muon":
        moments |= {name: trained[name] for name in layer_matrices(model) & set(trained)}
    return {
        "weights": FP32 * every / shards,
        "gradients": FP32 * sum(trained.values()) / shards,
        "optimizer": FP32 * sum(moments.values()) / shards,
        "average": FP32 * every / shards if recipe.optimizer.ema_decay else 0.0,
    }


def peak_bytes(
    model: MirasolForConditionalGeneration, recipe: Recipe, clips: int, size: tuple[int, int], kept: int, shards: int
) -> dict[str, float]:
    """Return the bytes by kind at the peak of a step, before the backward pass of a part or after the last.

    The backward pass frees a part's activations and autocast's bf16 copies of its weights, and leaves its gradients;
    of accumulated batches, the gradients are there from the second on. Recomputed layers leave no copies, and sharded
    ones are gathered one at a time.

    Args:
        clips: Number of clips of one pass on one GPU.
        size: Chunks and text tokens of a clip.
        kept: Bytes that a clip's forward pass keeps in bf16 (`sizes.measure`).
    """
    state = state_bytes(model, recipe, shards)
    accumulates = recipe.schedule.gradient_accumulation_steps > 1
    weights, trained = [0] * len(PARTS), [0] * len(PARTS)
    for name, parameter in model.named_parameters():
        words = set(name.split("."))
        part = next((i for i, names in enumerate(PARTS) if words.intersection(names)), 1)
        weights[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    activations = activation_bytes(model, recipe, *size, kept)
    logits = size[1] * model.config.text_config.vocab_size * (BF16 + 2 * FP32)  # for the loss, twice in fp32
    moments = []
    for done in range(len(PARTS) + 1):
        has_copies = shards == 1 and (done == 0 or not recipe.model.recompute_every)
        left = sum(stored for stored, _ in activations[done:])
        working = activations[done][1] if done < len(PARTS) else 0.0
        moments.append(state | {
            "weights": state["weights"] + (BF16 * sum(weights[done:]) if has_copies else 0),
            "gradients": state["gradients"] if accumulates else FP32 * sum(trained[:done]) / shards,
            "activations": clips * (left + working + (logits if done == 0 else 0)),
        })  # fmt: skip
    return max(moments, key=lambda held: sum(held.values()))


def activation_bytes(
    model: MirasolForConditionalGeneration, recipe: Recipe, chunks: int, tokens: int, kept: int
) -> list[tuple[float, float]]:
    """Return bytes of a clip by part: activations kept for the backward pass, and those of one recomputed layer.

    Recomputed layers keep only their input, in fp32.
    """
    config: Any = model.config
    video, audio = config.slot_sizes
    parts = [
        (config.text_config, tokens), (config.temporal_config, chunks * config.num_latents),
        (config.combiner_config, chunks * (video + audio)), (config.audio_config, chunks * audio),
        (config.video_config, chunks * video),
    ]  # fmt: skip
    sizes = [part.num_hidden_layers * part.hidden_size * count for part, count in parts]
    shares = [NORMS * kept * size / sum(sizes) for size in sizes]
    every = recipe.model.recompute_every
    if not every:
        return [(share, 0.0) for share in shares]
    return [
        (FP32 * size / every + (1 - 1 / every) * share, share / part.num_hidden_layers)
        for size, share, (part, _) in zip(sizes, shares, parts, strict=True)
    ]
