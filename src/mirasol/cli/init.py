"""`mirasol init`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Overrides, command, imports, show


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
