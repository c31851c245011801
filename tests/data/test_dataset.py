"""Items depend on (seed, epoch, id) alone, equal the processor's without augmentation, and join into batches."""

import dataclasses
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from clips import UNVARIED, write_clip
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from mirasol.chunks import MirasolCollator, MirasolProcessor
from mirasol.data import AugmentConfig, ClipDataset, ClipMixture
from mirasol.data.dataset import MAX_QUESTIONS_PER_CLIP
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.tasks import Row, get_task
from mirasol.tasks.grid import GridRow, evaluation_questions

WORDS = ("bin", "blue", "at", "f", "two", "now")
WORD_TIMES = tuple((0.23 + 0.19 * number, 0.23 + 0.19 * (number + 1)) for number in range(6))
MEDIA_INPUTS = ("pixel_values_videos", "input_features", "video_chunk_mask", "audio_chunk_mask", "chunk_times")


@pytest.fixture(scope="module")
def processor() -> MirasolProcessor:
    """Small pictures on the grid of GRID, and a tokenizer that spells."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<bos>", "<eos>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", model_max_length=128
    )
    return MirasolProcessor(
        MirasolVideoProcessor(image_size=19, crop_fraction=0.8), MirasolFeatureExtractor(num_mel_bins=23), fast,
        frames_per_second=25.0, num_frames_per_chunk=8, num_mel_frames_per_chunk=32, max_chunks=6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[GridRow]:
    """Five sentences of different length; the last one is silent."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number, seconds in enumerate((1.44, 1.6, 1.52, 1.4, 1.6)):
        path = write_clip(folder / f"{number}.mp4", seconds=seconds, sound=number < 4)
        row = GridRow(str(number), path, word_times=WORD_TIMES, words=WORDS, split="train")
        rows.append(dataclasses.replace(row, questions=tuple(evaluation_questions(row))))
    return rows


@pytest.fixture(scope="module")
def make(rows, processor, tmp_path_factory):
    """A dataset of these rows, with one cache for the module."""
    root = tmp_path_factory.mktemp("cache")

    def make(of_rows=rows, **options) -> ClipDataset:
        return ClipDataset(of_rows, get_task("grid"), processor, root, progress=False, **options)

    return make


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name])
        if isinstance(first[name], torch.Tensor)
        else first[name] == second[name]
        for name in first
    )


def test_an_item_without_augmentation_equals_the_processors(make, rows, processor):
    dataset = make()
    for row, item in zip(rows, dataset, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = processor(text=[q.text for q in row.questions], videos=row.media)
        for name in MEDIA_INPUTS:
            assert torch.equal(item[name], inputs[name][0]), name
        assert len(item["labels"]) == 17


def test_strengths_of_zero_vary_nothing(make):
    plain, off = make(), make(augment=UNVARIED)
    for index in range(len(plain)):
        for name in MEDIA_INPUTS:
            assert torch.equal(plain[index][name], off[index][name]), name


def test_a_silent_track_is_heard_as_silence_and_leaves_the_picture_as_it_is(make):
    """The model is told that there is sound: its answers must come from the picture. Sound alone is never silenced."""
    plain = make(augment=UNVARIED)[0]
    silent = make(augment=dataclasses.replace(UNVARIED, silence_probability=1.0))[0]
    assert torch.equal(silent["pixel_values_videos"], plain["pixel_values_videos"])
    assert torch.equal(silent["audio_chunk_mask"], plain["audio_chunk_mask"]) and plain["audio_chunk_mask"].any()
    floor = plain["input_features"].min()  # of both: the log-mel of digital silence
    assert silent["input_features"].max() < floor + 0.3 * (plain["input_features"].max() - floor)
    heard = [
        make(augment=dataclasses.replace(UNVARIED, silence_probability=p, sound_only_probability=1.0))[0]
        for p in (0.0, 1.0)
    ]
    assert torch.equal(heard[0]["input_features"], heard[1]["input_features"])


def test_item_is_the_same_for_the_same_seed_epoch_and_id(make, rows):
    dataset, other_order, other_seed = (
        make(augment=AugmentConfig()), make(rows[::-1], augment=AugmentConfig()), make(augment=AugmentConfig(), seed=1)
    )  # fmt: skip
    for epoch in (0, 3):
        for data in (dataset, other_order, other_seed):
            data.set_epoch(epoch)
        for index in range(5):
            item = dataset[index]
            assert equal(item, dataset[index]) and equal(item, other_order[4 - index])
            assert not equal(item, other_seed[index])
    third = dataset[2]
    dataset.set_epoch(4)
    assert not equal(third, dataset[2])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_the_same_batches_and_see_each_new_epoch(make, processor, persistent):
    dataset, collate = make(augment=AugmentConfig(), questions_per_clip=3), MirasolCollator(processor.pad_token_id)
    alone = DataLoader(dataset, batch_size=3, collate_fn=collate)
    beside = DataLoader(dataset, batch_size=3, collate_fn=collate, num_workers=2, persistent_workers=persistent)
    previous = None
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches = list(alone)
        for batch, same in zip(batches, beside, strict=True):
            assert equal(batch, same)
            assert len(batch["labels"]) == 3 * len(batch["chunk_times"])
        assert previous is None or not equal(batches[0], previous)
        previous = batches[0]


def test_a_spawned_worker_makes_the_same_items_without_a_copy_of_the_cache(make):
    dataset = make(augment=AugmentConfig())
    expected = [dataset[index] for index in range(len(dataset))]
    assert len(pickle.dumps(dataset)) < sum(file.stat().st_size for file in dataset.cache.folder.glob("*/*")) / 3
    mixture = ClipMixture([dataset])
    loader = DataLoader(
        mixture, batch_size=None, num_workers=1, multiprocessing_context="spawn", persistent_workers=True
    )
    assert all(map(equal, loader, expected))
    mixture.set_epoch(1)
    assert all(map(equal, loader, [dataset[index] for index in range(len(dataset))]))


def test_training_items_ask_for_what_is_inside_the_augmented_clip(make, processor):
    dataset = make(augment=AugmentConfig())
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            item = dataset[index]
            assert (item["video_chunk_mask"] | item["audio_chunk_mask"]).any()
            assert not item["pixel_values_videos"][~item["video_chunk_mask"]].any()
            assert not item["input_features"][~item["audio_chunk_mask"]].any()
            spans = item["chunk_times"][:, 1] - item["chunk_times"][:, 0]
            assert torch.allclose(spans, torch.tensor(0.32), atol=1e-5)  # slower never means squeezed
            assert len(item["labels"]) == 14


def test_bad_clips_are_left_out_and_the_rest_can_be_trained_on(make, rows, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 1000)
    bad = dataclasses.replace(rows[0], id="bad", media=tmp_path / "bad.mp4")
    with pytest.warns(UserWarning, match="1 of 6 clips cannot be read"):
        dataset = make([bad, *rows])
    assert [row.id for row in dataset.rows] == [row.id for row in rows] and set(dataset.cache.bad) == {"bad"}


def test_own_clips_with_unequal_numbers_of_questions_share_a_batch(rows, processor, tmp_path):
    task = get_task("jsonl")
    manifest = tmp_path / "train.jsonl"
    manifest.write_text(
        f'{{"media": "{rows[0].media}", "question": "q", "answer": "a"}}\n'
        f'{{"media": "{rows[1].media}", "questions": ["q", "r", "s"], "answers": ["a", "b", "c"]}}\n'
    )
    own: list[Row] = task.load(manifest)
    dataset = ClipDataset(own, task, processor, tmp_path / "cache", augment=AugmentConfig(), progress=False)
    batch = MirasolCollator(processor.pad_token_id)([dataset[0], dataset[1]])
    assert len(batch["labels"]) == 6
    answers = processor.decode_answer(batch["labels"])
    assert answers[:3] == ["a", "a", "a"] and sorted(answers[3:]) == ["a", "b", "c"]


def test_a_file_of_very_many_questions_is_asked_some_of_them_each_epoch(rows, processor, tmp_path):
    """32 a clip: all clips of a batch have equally many, and those of the other are repeated."""
    manifest, names = tmp_path / "train.jsonl", [f"q{number}" for number in range(50)]
    many = json.dumps({"media": str(rows[1].media), "questions": names, "answers": names})
    manifest.write_text(f'{{"media": "{rows[0].media}", "question": "q", "answer": "a"}}\n{many}\n')
    task = get_task("jsonl")
    dataset = ClipDataset(
        task.load(manifest), task, processor, tmp_path / "cache", augment=AugmentConfig(), progress=False
    )
    assert [len(dataset[index]["labels"]) for index in range(2)] == [MAX_QUESTIONS_PER_CLIP] * 2
    drawn = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        asked = {tuple(row) for row in dataset[1]["decoder_input_ids"]}
        assert len(asked) == MAX_QUESTIONS_PER_CLIP
        drawn.append(asked)
    assert drawn[0] != drawn[1]


def test_shipped_clips_train_with_every_word_inside(grid_root, processor, tmp_path):
    task = get_task("grid")
    dataset = ClipDataset(
        task.load(grid_root, "train")[:3], task, processor, tmp_path, augment=AugmentConfig(), progress=False
    )
    batch = MirasolCollator(processor.pad_token_id)([dataset[index] for index in range(3)])
    assert len(batch["labels"]) == 3 * 14 and batch["input_features"].isfinite().all()
    assert np.isfinite(batch["chunk_times"].numpy()).all()


def test_a_mixture_augments_all_its_parts_by_epoch(make, rows):
    mixture = ClipMixture([make(rows[:2], augment=AugmentConfig(), seed=seed) for seed in (0, 1)])
    assert len(mixture) == 4 and not equal(mixture[0], mixture[2])
    before = [mixture[index] for index in range(4)]
    mixture.set_epoch(3)
    assert not any(equal(mixture[index], before[index]) for index in range(4))


@pytest.mark.parametrize("per_epoch", [2, 7])
def test_clips_of_an_epoch_are_the_next_ones_of_rounds_over_all(make, rows, per_epoch):
    plain, some = make(rows), make(rows, clips_per_epoch=per_epoch)
    assert len(some) == per_epoch
    shown = []
    for epoch in range(10):
        some.set_epoch(epoch)
        items = [some[index] for index in range(per_epoch)]
        shown += [next(number for number in range(5) if equal(item, plain[number])) for item in items]
    rounds = [shown[start : start + 5] for start in range(0, len(shown), 5)]
    assert all(sorted(numbers) == [0, 1, 2, 3, 4] for numbers in rounds), "every clip comes once in a round"
    assert len({tuple(numbers) for numbers in rounds}) > 1, "each round has an order of its own"


def test_a_clip_that_comes_twice_in_an_epoch_is_augmented_anew(make, rows):
    twice = make(rows[:1], augment=AugmentConfig(), clips_per_epoch=2)
    assert not equal(twice[0], twice[1]) and equal(twice[1], twice[1])


@pytest.mark.parametrize("options", [{}, {"balance": True}, {"clips_per_epoch": 4}], ids=str)
def test_clips_decoded_when_they_are_asked_for_give_the_items_of_cached_ones(make, rows, processor, options):
    """In every epoch, also where augmentation leaves the picture out, which is then not decoded."""
    augment = AugmentConfig(sound_only_probability=0.4)
    cached = make(augment=augment, **options)
    direct = ClipDataset(rows, get_task("grid"), processor, None, augment=augment, **options)
    for epoch in range(4):
        for dataset in (cached, direct):
            dataset.set_epoch(epoch)
        for index in range(len(cached)):
            assert equal(cached[index], direct[index]), (epoch, index)


def test_a_picture_that_is_left_out_is_not_decoded(rows, processor, monkeypatch):
    from mirasol.features import MirasolVideoProcessor

    seen = []
    original = MirasolVideoProcessor.square_of
    monkeypatch.setattr(
        MirasolVideoProcessor, "square_of", lambda *args, **options: seen.append(1) or original(*args, **options)
    )
    augment = AugmentConfig(sound_only_probability=1.0, picture_only_probability=0.0)
    direct = ClipDataset(rows, get_task("grid"), processor, None, augment=augment)
    assert direct[0]["audio_chunk_mask"].any() and not direct[0]["video_chunk_mask"].any() and not seen
    assert direct[4]["video_chunk_mask"].any() and seen, "the last clip has no sound"


def test_of_a_long_clip_only_the_sampled_frames_are_decoded(processor, tmp_path):
    """6 chunks of 8 frames, and the frame at each chunk's end; the clip has 500 frames."""
    path = write_clip(tmp_path / "long.mp4", seconds=20.0)
    row = GridRow("long", path, word_times=WORD_TIMES, words=WORDS, split="train")
    row = dataclasses.replace(row, questions=tuple(evaluation_questions(row)))
    direct = ClipDataset([row], get_task("grid"), processor, None)
    assert len(direct._decode(row, None, 0).frames) <= 6 * 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = processor(text=[q.text for q in row.questions], videos=row.media)
    for name in MEDIA_INPUTS:
        assert torch.equal(direct[0][name], inputs[name][0]), name
    augmented = ClipDataset([row], get_task("grid"), processor, None, augment=AugmentConfig())
    for epoch in range(3):
        augmented.set_epoch(epoch)
        assert augmented[0]["chunk_times"].shape == (6, 2)


def test_an_undecodable_clip_is_a_blank_that_says_so_and_the_rest_of_the_batch_is_as_before(rows, processor, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(bytes(1000))
    bad = [dataclasses.replace(rows[0], id=name, media=tmp_path / f"{name}.mp4") for name in ("bad", "gone")]
    dataset = ClipDataset([rows[0], *bad], get_task("grid"), processor, None)
    items = [dataset[0], dataset[1], dataset[2], dataset[-1]]
    batch = MirasolCollator(processor.pad_token_id)(items)
    assert [skip[:2] for skip in batch.pop("skipped")] == [("bad", "undecodable"), ("gone", "missing")]
    alone = MirasolCollator(processor.pad_token_id)(items[:1])
    for name, value in alone.items():
        if name.endswith("_index"):
            assert torch.equal(batch[name], value)
        else:
            width = value.shape[1]
            assert torch.equal(batch[name][: len(value), :width], value), name
    assert len(batch["labels"]) == 4 * len(alone["labels"]) and (batch["labels"][len(alone["labels"]) :] == -100).all()
    assert not (batch["video_chunk_mask"] | batch["audio_chunk_mask"])[1:].any()


def test_a_batch_of_blanks_alone_can_be_made(make, processor):
    mixture = ClipMixture([make(), make()])
    batch = MirasolCollator(processor.pad_token_id)([mixture[-1], mixture[-2]])
    assert batch["labels"].tolist() == [[-100], [-100]] and len(batch["video_chunk_index"]) == 0
