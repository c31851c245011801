"""Parameters and cost of chunks of 4 to 64 frames, 4 to 128 of them, as a table in Markdown.

    python benchmarks/chunk_sizes.py [--preset small] [--seconds]

FLOPs of one forward pass are counted on the meta device, with 0.08 s of sound a frame and 256 tokens of text. Tubes of
4x16x16 cover every frame, 1x16x16 look closely at the first frame of each chunk, and m stays as it is. With
`--seconds`, a copy of width 64 runs forward and backward at every size, in CPU seconds of one process.
"""

import argparse
import time

import torch

from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.model.sizes import build, measure, parameters_by_part

FRAMES, CHUNKS = (4, 8, 16, 32, 64), (4, 16, 64, 128)
NARROW = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}


def config_of(name: str, frames: int, narrow: bool = False) -> MirasolConfig:
    """The preset with chunks of so many frames; or its copy of width 64, for 32 px."""
    video = {
        "num_frames": frames,
        "tubes": (((4, 16, 16), (4, 16, 16), (0, 0, 0)), ((1, 16, 16), (frames, 16, 16), (0, 0, 0))),
    }
    audio = {"num_mel_frames": 8 * frames}
    if not narrow:
        return preset(name, seconds_per_chunk=0.08 * frames, video_config=video, audio_config=audio)
    text = {**NARROW, "head_dim": 32, "vocab_size": 512}
    return preset(
        name,
        seconds_per_chunk=0.08 * frames,
        video_config={**video, **NARROW, "image_size": 32},
        audio_config={**audio, **NARROW, "patches": (((16, 128), (16, 128), (0, 0)),)},
        combiner_config={**NARROW, "num_latents": 8},
        temporal_config={**NARROW, "predicted_video_size": (2, 8, 8)},
        text_config={**text, "num_key_value_heads": 2},
    )


def step_seconds(config: MirasolConfig, chunks: int) -> float:
    """CPU seconds of forward and backward over one clip, the second time."""
    torch.manual_seed(0)
    model = MirasolForConditionalGeneration(config)
    start = config.seconds_per_chunk * torch.arange(chunks)
    mask = torch.ones(1, chunks, dtype=torch.bool)
    clip = {
        "pixel_values_videos": torch.randn(1, chunks, config.num_frames_per_chunk, 3, 32, 32),
        "input_features": torch.randn(1, chunks, config.num_mel_frames_per_chunk, config.num_mel_bins),
        "video_chunk_mask": mask,
        "audio_chunk_mask": mask,
        "chunk_times": torch.stack([start, start + config.seconds_per_chunk], dim=-1)[None],
    }
    for _ in range(2):
        model.zero_grad()
        begin = time.process_time()
        loss = model.train()(**clip, labels=torch.randint(3, 512, (1, 32))).loss
        loss.backward()
        assert loss.isfinite()
    return time.process_time() - begin


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", help="default: %(default)s")
    parser.add_argument("--seconds", action="store_true", help="run a narrow copy forward and backward, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = [f"GFLOP, {chunks} chunks" for chunks in CHUNKS]
    columns += [f"CPU s, {chunks} chunks" for chunks in CHUNKS] if arguments.seconds else []
    print(f"| frames a chunk | parameters | video + audio tokens | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|")
    for frames in FRAMES:
        config = config_of(arguments.preset, frames)
        model = build(config)
        video, audio = config.slot_sizes
        cells = [f"{measure(model, chunks)[0] / 1e9:,.0f}" for chunks in CHUNKS]
        if arguments.seconds:
            narrow = config_of(arguments.preset, frames, narrow=True)
            cells += [f"{step_seconds(narrow, chunks):.2f}" for chunks in CHUNKS]
        total = parameters_by_part(model)["total"]
        print(f"| {frames} | {total:,} | {video} + {audio} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
