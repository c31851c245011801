"""`mirasol info`, `init` and `export`: describe, make and export checkpoints."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Checkpoint, Overrides, command, imports, show


@command("mirasol info 3b")
def info(
    path: Annotated[str, typer.Argument(metavar="CLIP|CHECKPOINT|PRESET", help="Presets: nano, small, base, 3b.")],
    as_json: AsJson = False,
) -> None:
    """Describe a clip, a checkpoint or a preset."""
    with imports():
        from mirasol.report.info import info as describe

    show(describe(path), as_json)


@command("mirasol init --vision google/siglip-base-patch16-224 --text HuggingFaceTB/SmolLM2-135M -o checkpoints/mine")
def init(
    text: Annotated[
        str, typer.Option(metavar="NAME", help="Llama, SmolLM, Mistral, Qwen, Granite, Gemma 1 or Phi-3.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FOLDER", help="The checkpoint, a new folder.")],
    vision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="SigLIP, CLIP, ViT, DeiT or DINOv2: a folder or a name on the Hub."),
    ] = None,
    audio: Annotated[str | None, typer.Option(metavar="NAME", help="AST; without it the model is video-only.")] = None,
    max_chunks: Annotated[int, typer.Option(metavar="N", min=1, help="Chunks of a clip at most.")] = 16,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a checkpoint to train from pretrained parts, of which --vision or --audio may be left out.

    KEY=VALUE replaces a value of the model's config, such as use_audio=false.
    """
    with imports():
        from mirasol.convert import init as assemble

    show(assemble(vision, audio, text, output, overrides or [], max_chunks), as_json)


@command("mirasol export --checkpoint runs/mine/best my-model-on-the-hub")
def export(
    output: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder.")],
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Write checkpoint and code into one flat folder.

    transformers loads it with trust_remote_code where mirasol is not installed.
    """
    with imports():
        from mirasol.convert.flat_folder import write_flat_folder

    show(write_flat_folder(checkpoint, output), as_json)
