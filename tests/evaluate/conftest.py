"""An untrained nano checkpoint, as a folder and loaded: everything in evaluate/ must run with it."""

import pytest


@pytest.fixture(scope="session")
def untrained(tmp_path_factory, grid_root):
    """The folder of a nano model with random weights and its processor, whose tokenizer knows GRID's texts."""
    import torch

    from mirasol import (
        MirasolFeatureExtractor,
        MirasolForConditionalGeneration,
        MirasolProcessor,
        MirasolVideoProcessor,
    )
    from mirasol.model.presets import preset
    from mirasol.tasks import grid
    from mirasol.train.tokenizer import build_tokenizer

    torch.manual_seed(0)
    rows = grid.load(grid_root, "val")[:20]
    tokenizer = build_tokenizer(t for row in rows for q in row.questions for t in (q.text + "\n", q.answer))
    config = preset("nano")
    model = MirasolForConditionalGeneration(config)
    processor = MirasolProcessor(
        MirasolVideoProcessor(image_size=config.image_size),
        MirasolFeatureExtractor(config.num_mel_bins),
        tokenizer,
        frames_per_second=config.num_frames_per_chunk / config.seconds_per_chunk,
        num_frames_per_chunk=config.num_frames_per_chunk,
        num_mel_frames_per_chunk=config.num_mel_frames_per_chunk,
        max_chunks=10,
    )
    model.generation_config.max_new_tokens = 5  # untrained models never end an answer
    folder = tmp_path_factory.mktemp("untrained") / "nano"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(untrained):
    """The same, loaded: (model, processor)."""
    from mirasol.evaluate.generation import load_checkpoint

    return load_checkpoint(untrained)
