import jaxtyping
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same numbers at every run."""
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """The model as users have it: without the shape checks of the tests, which would speak before its own messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
