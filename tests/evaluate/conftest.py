"""An untrained nano checkpoint, loaded: everything in evaluate/ must run with it."""

import pytest


@pytest.fixture(scope="session")
def loaded(untrained):
    """The same, loaded: (model, processor)."""
    from mirasol.evaluate.generation import load_checkpoint

    return load_checkpoint(untrained)
