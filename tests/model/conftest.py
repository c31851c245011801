import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch):
    """The model as users have it: without the shape checks of the tests, which would speak before its own messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
