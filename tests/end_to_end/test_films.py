"""The scripts that measure films and surprise: scores by plain loops, a streamed film against one forward."""

import importlib
import sys

import numpy as np
import pytest

from mirasol.answer.session import MIN_SURPRISES, StreamSession
from mirasol.chunks.stream import ClosedChunk


@pytest.fixture
def script(repository, monkeypatch):
    """Importer of a script in benchmarks/, run from the repository's root."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    monkeypatch.chdir(repository)

    def load(name: str):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.mark.slow
def test_a_streamed_film_gives_the_latents_and_answers_of_one_forward(script, tmp_path):
    ((difference, same, total),) = script("films").stream(8, 1, None, tmp_path)
    assert difference < 2e-5, "latents are of order 5: more is not rounding"
    assert same == total == 120


def test_auroc_is_the_share_of_pairs_in_order(script):
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(6, size=23), rng.integers(5, size=31)
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert script("surprise").auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_running_z_is_the_sessions(script, answerer):
    session, values = StreamSession(answerer, start_time=0.0), np.random.default_rng(0).random((1, MIN_SURPRISES + 6))
    values[0, 0] = np.nan
    scores = []
    for index, value in enumerate(values[0]):
        times = np.array([[index, index + 1.0]])
        chunk = ClosedChunk(index, {"video_chunk_mask": np.array([True]), "audio_chunk_mask": np.array([True]),
                                    "chunk_times": times})  # fmt: skip
        scores.append(session._record(chunk, float(value)).surprise_z)
    found = script("surprise").running_z(values)[0]
    unknown = [True] * (MIN_SURPRISES + 1) + [False] * 5  # and of the first chunk nothing was predicted
    assert [score is None for score in scores] == np.isnan(found).tolist() == unknown
    assert [score for score in scores if score is not None] == pytest.approx(found[~np.isnan(found)])


def test_the_sweep_is_resumed_from_whole_lines(script, tmp_path):
    films = script("films")
    (tmp_path / "films.jsonl").write_text('{"name": "all", "seed": 0}\n{"name": "ttm", "se')
    assert films.read_lines(tmp_path / "films.jsonl") == [{"name": "all", "seed": 0}]
    assert films.read_lines(tmp_path / "none.jsonl") == []


def test_every_row_of_the_sweep_is_a_recipe(script):
    films = script("films")
    from mirasol.train.recipe import load_recipe

    for overrides in films.ROWS.values():
        load_recipe(films.RECIPE, overrides)
