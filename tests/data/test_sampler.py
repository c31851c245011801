"""Order of an epoch: every clip once, whatever the ranks, workers and shards, and the same one after a resume."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from mirasol.data.sampler import SHARDS_PER_GROUP, EpochSampler, shuffle
from mirasol.data.skipped import Skipped

SHARDED = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=20), min_size=1, max_size=3)
EPOCH = 3
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def batches_of_ranks(sampler: EpochSampler, num_ranks: int) -> list[list[list[int]]]:
    """The batches of each rank, as accelerate shares them out."""
    from accelerate.data_loader import BatchSamplerShard

    batches = BatchSampler(sampler, sampler.batch_size, drop_last=True)
    return [list(BatchSamplerShard(batches, num_ranks, rank)) for rank in range(num_ranks)]


def make(sources, batch_size: int, num_ranks: int, seed: int = 0) -> EpochSampler:
    sampler = EpochSampler(sources, batch_size, seed, num_ranks)
    sampler.set_epoch(EPOCH)
    return sampler


def clips(indices) -> list[int]:
    return [index for index in indices if index >= 0]


@SETTINGS
@given(SHARDED, st.integers(1, 5), st.integers(1, 5))
def test_an_epoch_over_all_ranks_has_every_clip_once_and_as_many_batches_on_each(sources, batch_size, num_ranks):
    sampler = make(sources, batch_size, num_ranks)
    ranks = batches_of_ranks(sampler, num_ranks)
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    assert len(sampler) == sum(len(batch) for batches in ranks for batch in batches)
    taken = clips(index for batches in ranks for batch in batches for index in batch)
    assert sorted(taken) == list(range(sum(map(sum, sources))))


@SETTINGS
@given(st.integers(1, 60), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_a_step_takes_the_same_clips_where_ranks_times_accumulated_batches_are_equal(size, batch_size, num_ranks):
    """So two ranks resume as one with twice the accumulated batches, at the same step."""
    accumulated = 4 // num_ranks
    ranks = batches_of_ranks(make([size], batch_size, num_ranks), num_ranks)
    steps = [
        {index for rank in ranks for batch in rank[step : step + accumulated] for index in clips(batch)}
        for step in range(0, len(ranks[0]), accumulated)
    ]
    whole = list(make([size], batch_size, 1))
    size_of_step = 4 * batch_size
    assert steps == [set(clips(whole[at : at + size_of_step])) for at in range(0, len(whole), size_of_step)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_leave_the_order_as_it_is(workers):
    sampler = make([[5, 7], [4]], 3, 1)
    loader = DataLoader(Echo(), batch_size=3, sampler=sampler, num_workers=workers, drop_last=True)
    assert torch.cat(list(loader)).tolist() == list(sampler)


class Echo(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> int:
        return index


def test_the_order_follows_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochSampler([[10, 10, 17]], 16, seed)
        sampler.set_epoch(epoch)
        torch.rand(3)  # the global random state must not matter
        return list(sampler)

    assert sorted(clips(order(0, 0))) == list(range(37))
    assert order(0, 5) == order(0, 5)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_clips_are_shuffled_within_groups_of_shards_that_come_at_random():
    sizes = [4] * (3 * SHARDS_PER_GROUP)
    order = shuffle(sizes, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    groups = [{int(index) // 4 for index in part} for part in order.split(4 * SHARDS_PER_GROUP)]
    assert all(len(group) == SHARDS_PER_GROUP for group in groups), "a group reads so many shards, each whole"
    assert groups[0] != set(range(SHARDS_PER_GROUP)), "neighbours in the folder need not be in one group"
    first = [int(index) // 4 for index in order[: 4 * SHARDS_PER_GROUP]]
    assert sum(a != b for a, b in zip(first, first[1:], strict=False)) > SHARDS_PER_GROUP, "and its clips are mixed"


def test_every_batch_is_of_one_source_and_they_take_turns():
    sampler = make([37, 5, 11], 5, 1)
    indices = list(sampler)
    batches = [indices[start : start + 5] for start in range(0, len(indices), 5)]
    sources = [{0 if i in range(37) or i == -1 else 1 if i in range(42) or i == -2 else 2 for i in b} for b in batches]
    assert all(len(source) == 1 for source in sources) and len(batches) == 8 + 1 + 3
    assert sources != sorted(sources, key=min)
    assert sorted(clips(indices)) == list(range(53))


def test_shards_of_a_mixture_stay_together():
    """Batches of one source are interleaved with the others', but keep their order, in which few shards are open."""
    sampler = make([[20] * 32, [300]], 4, 1)
    shards = [index // 20 for index in sampler if 0 <= index < 640]
    assert all(len(set(shards[n : n + 160])) <= 2 * SHARDS_PER_GROUP for n in range(0, 640, 160))


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match=r"clips in every source, found \[3, 0\]"):
        EpochSampler([3, [0]], 2, 0)


def test_a_process_that_skipped_no_clip_itself_says_where_the_causes_are():
    skipped = Skipped(max_share=0.1)
    skipped.begin_epoch(12)
    skipped.add(2)  # on another rank
    with pytest.raises(ValueError, match=r"found 2 in this one. Another process reports the causes. Mend"):
        skipped.refuse_many()
