"""What every test has: one quiet thread, no network, shapes checked, and the paths of the clips."""

import os

# Before torch is imported: with shared cores its default threads spin-wait for each other, 5 times slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).resolve().parent.parent

SOURCE = REPOSITORY / "src" / "mirasol"
# The modules whose jaxtyping signatures are enforced while testing; users pay nothing. Only these, because `@strict`
# config modules must not be hooked. The hook stays for the whole session: modules load lazily.
SHAPED = [*(SOURCE / "features").glob("*.py"), *(SOURCE / "model").glob("modeling_*.py")]
SHAPED += [SOURCE / name for name in ("data/augment.py", "answer/attribution.py", "answer/generation.py")]
install_import_hook([f"mirasol.{path.parent.name}.{path.stem}" for path in SHAPED], "beartype.beartype")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def grid_root() -> Path:
    """The folder of the shipped GRID clips."""
    return REPOSITORY / "data" / "grid_s1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger test material beside the checkout; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the material in {folder}, which is not on this machine")
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory, grid_root) -> Path:
    """The folder of a nano checkpoint with random weights, made by the recipe: whatever a checkpoint does, it does."""
    from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
    from mirasol.tasks import get_task
    from mirasol.train.build import build_processor, model_config, training_questions
    from mirasol.train.recipe import load_recipe
    from mirasol.train.resolve import resolve

    recipe = resolve(load_recipe(REPOSITORY / "recipes" / "grid_nano.yaml"))
    pairs = training_questions(recipe, "grid", get_task("grid").load(grid_root, "train")[:50])
    asked = [f"{question}\n{answer}" for _, question, answer in pairs]
    processor = build_processor(recipe, asked)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "nano"
    model = MirasolForConditionalGeneration(model_config(recipe, processor))
    model.generation_config.max_new_tokens = 48  # random weights hardly ever close an answer
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(untrained):
    """The same, loaded: (model, processor)."""
    from mirasol.answer.checkpoint import load_checkpoint

    return load_checkpoint(untrained)


@pytest.fixture(scope="session")
def answerer(loaded):
    """The same as an `Answerer`."""
    from mirasol.answer.answerer import Answerer

    return Answerer(*loaded)
