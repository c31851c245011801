"""Against concatenating all tokens into one language model, at equal parameters: seconds, memory and cache by frames.

    python benchmarks/against_concatenation.py [--frames 32 128 512] [--rounds 3] [--plot FILE.png]

The other side is transformers' own `LlavaForConditionalGeneration`: a SigLIP tower as large as our video encoder, and
a Qwen2 whose inner width is chosen so that both sides have equally many parameters. As in Qwen2.5-Omni, two frames
give one grid of tokens; at 80 px that is 100 tokens for 8 frames, where our tubes give 117 at 96 px. Neither side has
sound; the text is 64 tokens; all weights are random, in fp32.

`prefill` reads the clip and the question and fills the cache; `train` is forward and backward with every loss. FLOPs
are counted while it runs (attention under a causal flag by half, under a mask in full). A ratio is theirs over ours;
"of FLOPs" is the ratio in seconds over the ratio in FLOPs (aim: at least 80 %).
"""

import argparse
import sys
from pathlib import Path

from interleaved import interleave, machine, serve

TEXT, VOCAB, IMAGE, WIDTH = 64, 512, 511, 256
TOWER = {"hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 4 * WIDTH}
OURS = {
    "use_audio": False,
    "video_config": {**TOWER, "num_hidden_layers": 6, "image_size": 96},
    "combiner_config": {**TOWER, "num_hidden_layers": 2, "num_latents": 12},
    "temporal_config": {**TOWER, "num_hidden_layers": 6},
    "text_config": {
        "vocab_size": VOCAB, "hidden_size": 384, "num_hidden_layers": 5, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1024,
    },
}  # fmt: skip
PATCHES = (80 // 16) ** 2


def ours():
    """A function from frames to our model's output, and our model."""
    import torch

    from mirasol.model.configuration_mirasol import MirasolConfig
    from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration

    torch.manual_seed(0)
    model = MirasolForConditionalGeneration._from_config(MirasolConfig(**OURS))

    def run(frames: int, training: bool):
        chunks = frames // 8
        seconds = 0.64 * torch.arange(chunks)
        text = torch.randint(3, VOCAB, (1, TEXT))
        return model(
            pixel_values_videos=torch.randn(1, chunks, 8, 3, 96, 96),
            video_chunk_mask=torch.ones(1, chunks, dtype=torch.bool),
            chunk_times=torch.stack([seconds, seconds + 0.64], dim=-1)[None],
            decoder_input_ids=text,
            labels=text if training else None,
        )

    return run, model


def concatenation():
    """The same of the other side."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

    def build(intermediate_size: int):
        text = Qwen2Config(
            vocab_size=VOCAB, hidden_size=384, num_hidden_layers=7, num_attention_heads=6, num_key_value_heads=2,
            intermediate_size=intermediate_size, tie_word_embeddings=True, max_position_embeddings=65_536,
        )  # fmt: skip
        vision = SiglipVisionConfig(**TOWER, num_hidden_layers=6, image_size=80, patch_size=16)
        config = LlavaConfig(
            vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=PATCHES,
            vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True,
        )  # fmt: skip
        return LlavaForConditionalGeneration(config)

    wanted = sum(parameter.numel() for parameter in ours()[1].parameters())
    base, step = (sum(p.numel() for p in build(size).parameters()) for size in (8, 16))
    torch.manual_seed(0)
    model = build(8 + 8 * round((wanted - base) / (step - base)))

    def run(frames: int, training: bool):
        images = torch.full((1, PATCHES * frames // 2), IMAGE)
        text = torch.randint(3, IMAGE, (1, TEXT))
        ids = torch.cat([images, text], dim=1)
        labels = ids.masked_fill(ids == IMAGE, -100) if training else None
        pixels = torch.randn(frames // 2, 3, 80, 80)
        return model(pixel_values=pixels, input_ids=ids, labels=labels, logits_to_keep=0 if training else 1)

    return run, model


def cache_bytes(caches) -> int:
    """Bytes of keys and values in a cache, or in the pair of caches of an encoder-decoder."""
    pair = [caches.self_attention_cache, caches.cross_attention_cache] if hasattr(caches, "is_updated") else [caches]
    return sum(
        t.numel() * t.element_size() for cache in pair for layer in cache.layers for t in (layer.keys, layer.values)
    )


def attention_flops(query, key, value, dropout_p=0.0, is_causal=False, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of the fused attention on CPU, which torch's counter does not know."""
    batch, heads, rows, dim = query
    return 4 * batch * heads * rows * key[-2] * dim // (2 if is_causal else 1)


def measured(side: str, job: str) -> None:
    """Serves one side."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    run, model = ours() if side == "ours" else concatenation()
    model.train(job == "train")
    counted: dict[str, int] = {}

    def once(case: str):
        frames = int(case)
        if job == "train":
            model.zero_grad()
            run(frames, True).loss.backward()
            return None
        with torch.no_grad():
            if case not in counted:
                fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
                with FlopCounterMode(display=False, custom_mapping={fused: attention_flops}) as counter:
                    run(frames, False)
                counted[case] = counter.get_total_flops()
            else:
                return {"cache": cache_bytes(run(frames, False).past_key_values), "flops": counted[case]}

    serve(once, {"parameters": sum(parameter.numel() for parameter in model.parameters())})


def main() -> None:
    """Prints the table, and draws it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 128, 512], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw seconds and cache as a PNG")
    parser.add_argument("--side", choices=["ours", "concatenation"], help=argparse.SUPPRESS)
    parser.add_argument("--job", choices=["prefill", "train"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return measured(arguments.side, arguments.job)
    cases = [str(frames) for frames in arguments.frames]
    results = {}
    for job in ("prefill", "train"):
        commands = {
            side: [sys.executable, __file__, "--side", side, "--job", job] for side in ("ours", "concatenation")
        }
        results[job] = interleave(commands, arguments.rounds, cases)
    print(machine())
    for side in ("ours", "concatenation"):
        print(f"{side}: {results['prefill'][side][cases[0]].facts['parameters'] / 1e6:.2f} M parameters")
    print(
        f"{'job':<8} {'frames':>6} {'ours s':>8} {'theirs s':>9} {'ratio':>6} {'FLOP ratio':>11} {'of FLOPs':>9} "
        f"{'ours MiB':>9} {'theirs MiB':>11} {'cache KiB':>10} {'theirs KiB':>11}"
    )
    for job, sides in results.items():
        for case in cases:
            mine, theirs = sides["ours"][case], sides["concatenation"][case]
            facts = [results["prefill"][side][case].facts for side in ("ours", "concatenation")]
            flops, ratio = facts[1]["flops"] / facts[0]["flops"], theirs.seconds / mine.seconds
            print(
                f"{job:<8} {case:>6} {mine.seconds:>8.3f} {theirs.seconds:>9.3f} {ratio:>6.2f} {flops:>11.2f} "
                f"{100 * ratio / flops:>8.0f}% {mine.peak:>9.0f} {theirs.peak:>11.0f} "
                f"{facts[0]['cache'] / 1024:>10.0f} {facts[1]['cache'] / 1024:>11.0f}",
                flush=True,
            )
    if arguments.plot:
        from plot import Panel, draw

        def panel(title: str, unit: str, value):
            names = {"ours": "Mirasol", "concatenation": "one language model"}
            return Panel(title, "frames", unit, {
                name: [(int(case), value(side, case)) for case in cases] for side, name in names.items()
            })  # fmt: skip

        draw(arguments.plot, [
            panel("prefill", "CPU s", lambda side, case: results["prefill"][side][case].seconds),
            panel("train step", "CPU s", lambda side, case: results["train"][side][case].seconds),
            panel("cache", "MiB", lambda side, case: results["prefill"][side][case].facts["cache"] / 2**20),
        ])  # fmt: skip


if __name__ == "__main__":
    main()
