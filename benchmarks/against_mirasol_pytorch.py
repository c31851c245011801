"""Against mirasol-pytorch 0.0.16 at the size of its README: seconds, parameters and peak memory, in one run.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 mirasol-pytorch==0.0.16 x-transformers==1.27.20 packaging
    python benchmarks/against_mirasol_pytorch.py --peer-python PEER/bin/python [--jobs train generate] [--rounds 3]

Both sides have depths 2/2 (encoders), 2 (Combiner), 6 (time), 6 (text), width 512, 8 heads, 6 chunks of 2 frames of
128 px (4 tokens) and 32 columns of 64 bands (4 tokens), 3 vectors a chunk, 1,024 tokens of text of 257 kinds. The
peer always cuts sound into 32 chunks, encodes all and drops 26 (it needs the README's 1,024 columns); ours gets the
sound of the 6. That is less than a tenth of the peer's work.

`train` is forward and backward with all losses; "peer, small target" is the peer without its layer to full pixels
(its own option `video_recon_patch_size`), which predicts a video as small as ours. `generate` writes 512 tokens,
`generate8` does it for 8 clips at once; ours also with weights in bf16, and with the step compiled (once 17 CPU
seconds, not counted). Every side is a process of its own with one thread; seconds are medians of CPU seconds of rounds
in which all sides take turns. "Speed-up" is the peer's seconds over the row's.
"""

import argparse
import sys

from interleaved import interleave, machine, serve

CHUNKS, TEXT, WIDTH = 6, 1024, 512
PEER = {
    "dim": WIDTH, "num_text_tokens": 256, "video_image_size": 128, "video_frames_per_timechunk": 2,
    "audio_freq_dim": 64, "audio_time_dim_per_timechunk": 32,
    "audio_patch_size": (32, 16), "video_patch_size": (64, 2),
    "audio_encoder": {"dim": WIDTH, "depth": 2}, "video_encoder": {"dim": WIDTH, "depth": 2},
}  # fmt: skip
TOWER = {"hidden_size": WIDTH, "num_attention_heads": 8, "intermediate_size": 4 * WIDTH}
OURS = {
    "seconds_per_chunk": 0.32,
    "video_config": {
        **TOWER, "num_hidden_layers": 2, "image_size": 128, "num_frames": 2,
        "tubes": (((2, 64, 64), (2, 64, 64), (0, 0, 0)),),
    },
    "audio_config": {
        **TOWER, "num_hidden_layers": 2, "num_mel_frames": 32, "num_mel_bins": 64,
        "patches": (((16, 32), (16, 32), (0, 0)),),
    },
    "combiner_config": {**TOWER, "num_hidden_layers": 2, "num_latents": 3},
    "temporal_config": {**TOWER, "num_hidden_layers": 6},
    "text_config": {  # a gated MLP has three matrices: 2/3 of the inner width has the parameters of the peer's two
        "vocab_size": 257, "hidden_size": WIDTH, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 1368, "max_position_embeddings": TEXT,
    },
}  # fmt: skip
SIDES = {
    "ours": "ours", "ours, compiled": "ours-compiled", "ours, bf16": "ours-bf16",
    "ours, bf16, compiled": "ours-bf16-compiled", "peer": "peer", "peer, small target": "peer-small",
}  # fmt: skip
JOBS = {
    "train": ("ours", "peer", "peer, small target"),
    "generate": ("ours", "ours, compiled", "ours, bf16, compiled", "peer"),
    "generate8": ("ours", "ours, bf16", "ours, bf16, compiled", "peer"),
}


def ours(job: str, variants: list[str], num_tokens: int):
    """Our side's job and number of parameters."""
    import torch
    from transformers import CompileConfig

    from mirasol.model.configuration_mirasol import MirasolConfig
    from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration

    torch.manual_seed(0)
    dtype = torch.bfloat16 if "bf16" in variants else torch.float32
    model = MirasolForConditionalGeneration._from_config(MirasolConfig(**OURS), dtype=dtype)
    batch = 8 if job == "generate8" else 1
    seconds = 0.32 * torch.arange(CHUNKS).expand(batch, CHUNKS)
    clips = {
        "pixel_values_videos": torch.randn(batch, CHUNKS, 2, 3, 128, 128),
        "input_features": torch.randn(batch, CHUNKS, 32, 64),
        "video_chunk_mask": torch.ones(batch, CHUNKS, dtype=torch.bool),
        "audio_chunk_mask": torch.ones(batch, CHUNKS, dtype=torch.bool),
        "chunk_times": torch.stack([seconds, seconds + 0.32], dim=-1),
    }
    text = torch.randint(3, 257, (batch, TEXT))
    model.generation_config.eos_token_id = None  # writes all tokens, as the peer does
    model.train(job == "train")
    options: dict = {"max_new_tokens": num_tokens, "do_sample": False}
    if "compiled" in variants:
        options |= {"cache_implementation": "static", "compile_config": CompileConfig(fullgraph=True, mode="default")}
        options["compile_config"]._compile_all_devices = True  # transformers compiles on GPUs only unless told so

    def train(case: str):
        model.zero_grad()
        model(**clips, labels=text).loss.backward()

    def generate(case: str):
        start = torch.ones(batch, 1, dtype=torch.long)
        ids = model.generate(**clips, decoder_input_ids=start, **options)
        assert ids.shape == (batch, 1 + num_tokens)

    return (train if job == "train" else generate), sum(parameter.numel() for parameter in model.parameters())


def peer(job: str, variants: list[str], num_tokens: int):
    """The peer's job and number of parameters."""
    import torch
    from mirasol_pytorch import Mirasol

    torch.manual_seed(0)
    model = Mirasol(**PEER, **({"video_recon_patch_size": (16, 2)} if "small" in variants else {}))
    batch = 8 if job == "generate8" else 1
    clips = {"audio": torch.randn(batch, 64, 1024), "video": torch.randn(batch, 3, 2 * CHUNKS, 128, 128)}
    text = torch.randint(0, 256, (batch, TEXT))

    def train(case: str):
        model.zero_grad()
        model(**clips, text=text).backward()

    def generate(case: str):
        assert model.generate(**clips, seq_len=num_tokens).shape == (batch, num_tokens)

    return (train if job == "train" else generate), sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Prints a table of all sides for each job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", metavar="PATH", help="python of the environment that has mirasol-pytorch")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="to generate (default: %(default)s)")
    parser.add_argument("--side", choices=list(SIDES.values()), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, *variants = arguments.side.split("-")
        job, parameters = (ours if name == "ours" else peer)(arguments.jobs[0], variants, arguments.tokens)
        return serve(job, {"parameters": parameters})
    if not arguments.peer_python:
        parser.error("Expected --peer-python, the environment of the peer, found none. See --help for how to make it.")
    print(machine())
    print(f"{'job':<10} {'side':<22} {'parameters M':>12} {'CPU s':>8} {'speed-up':>9} {'peak MiB':>9}")
    for job in arguments.jobs:
        commands = {}
        for side in JOBS[job]:
            python = arguments.peer_python if side.startswith("peer") else sys.executable
            options = ["--side", SIDES[side], "--jobs", job, "--tokens", str(arguments.tokens)]
            commands[side] = [python, __file__, *options]
        sides = {side: cases[""] for side, cases in interleave(commands, arguments.rounds).items()}
        for side, row in sides.items():
            parameters, ratio = row.facts["parameters"] / 1e6, sides["peer"].seconds / row.seconds
            print(
                f"{job:<10} {side:<22} {parameters:>12.1f} {row.seconds:>8.2f} {ratio:>9.2f} {row.peak:>9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
