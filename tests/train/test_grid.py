"""One real run, as small as it gets: GRID clips in, a checkpoint that answers out, one bad clip counted."""

import csv
import json

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoProcessor

from mirasol.train.run import train

WIDTH = 16


@pytest.fixture(scope="module")
def small_grid(grid_root, tmp_path_factory):
    """Seven train and two val clips of GRID, of which one train clip is not a media file."""
    root = tmp_path_factory.mktemp("grid")
    (root / "clips").mkdir()
    with (grid_root / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["split"] == "train"][:7] + [row for row in rows if row["split"] == "val"][:2]
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        (root / row["file"]).symlink_to(grid_root / row["file"])
    (root / rows[3]["file"]).unlink()
    (root / rows[3]["file"]).write_bytes(b"this is not a clip")
    return root


@pytest.fixture(scope="module")
def run(small_grid, repository, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    towers = [f"model.overrides.{part}_config" for part in ("video", "audio", "combiner", "temporal")]
    sizes = [f"{tower}.{name}={value}" for tower in towers for name, value in SIZES.items()]
    with pytest.warns(UserWarning, match="1 of 7 clips cannot be read"):
        result = train(
            repository / "recipes" / "grid_nano.yaml",
            [
                f"output={output}",
                f"data.sources.0.root={small_grid}",
                f"data.cache={output / 'cache'}",
                "data.sources.0.questions_per_clip=3",
                "data.num_workers=0",
                "device=cpu",
                "schedule.batch_size=2",
                "schedule.pretrain_epochs=1",
                "schedule.finetune_epochs=1",
                "validation.every_epochs=1",
                "model.overrides.text_config.num_hidden_layers=1",
                *sizes,
            ],
        )
    return output, result


SIZES = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": WIDTH, "num_hidden_layers": 1}


@pytest.mark.slow
def test_the_run_trains_on_the_readable_clips_and_counts_the_other(run):
    output, result = run
    assert result.step == result.num_steps == 6  # 6 readable clips, 2 a step, 2 epochs
    assert result.num_bad_clips == 1
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "text_loss" in line]
    assert {"latent_loss", "video_loss", "audio_loss"} <= set(steps[0])
    assert {"chunk_cosine", "effective_rank"} <= set(steps[0])
    validations = [line for line in lines if "eval_mean_words" in line]
    assert [line["step"] for line in validations] == [3, 6]
    assert {"eval_words_both", "eval_words_sound", "eval_words_picture"} <= set(validations[0])


@pytest.mark.slow
def test_the_export_answers_a_question_about_a_clip(run, small_grid):
    output, result = run
    model = AutoModelForSeq2SeqLM.from_pretrained(result.export, dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(result.export)
    inputs = processor(text="which color is named?", videos=str(sorted((small_grid / "clips").iterdir())[-1]))
    ids = model.generate(**inputs, max_new_tokens=3)
    prompt_length = inputs["decoder_input_ids"].shape[1]
    assert 1 <= ids.shape[1] - prompt_length <= 3 and ids.max() < model.config.text_config.vocab_size
    assert json.loads((output / "best" / "training.json").read_text())["num_bad_clips"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.overrides.combinr_config={}", r'"model.overrides.combinr_config".*"model.overrides.combiner_config"'),
        (
            "model.overrides.text_config.num_layers=1",
            r"nearest valid key is \"model.overrides.text_config.num_h",
        ),
        ("model.overrides.video_config.image_size=32", r"sets what the processor decides.*processor section instead"),
        ("model.overrides.text_config.num_attention_heads=5", r"multiple of num_attention_heads|must be a multiple"),
        ("model.preset=nan", r"Unknown preset 'nan'"),
        ("validation.metric=mean_exact_match", r"but validation gives: .*mean_words.*Did you mean 'mean_"),
        ("validation.conditions=[both, smell]", r"condition out of both.*found 'smell'"),
        ("validation.conditions=[both, swapped]", r"one answer right, found 'swapped'"),
    ],
)
def test_a_wrong_model_key_is_refused(small_grid, repository, tmp_path, override, message):
    overrides = [f"output={tmp_path / 'run'}", f"data.sources.0.root={small_grid}", f"data.cache={tmp_path}", override]
    with pytest.raises(ValueError, match=message):
        train(repository / "recipes" / "grid_nano.yaml", overrides)
    assert not (tmp_path / "run").exists()


def test_own_clips_that_are_train_and_val_at_once_are_refused(grid_root, repository, tmp_path):
    """A manifest given as a file is every split: the best checkpoint would be chosen by what it was trained on."""
    manifest = tmp_path / "own.jsonl"
    clip = next((grid_root / "clips").iterdir())
    manifest.write_text(json.dumps({"media": str(clip), "question": "what is said?", "answer": "bin"}))
    overrides = ["data.sources.0.task=jsonl", "validation.metric=mean_exact_match", f"data.sources.0.root={manifest}"]
    with pytest.raises(ValueError, match=r"found 1 of 1 in both below .*own\.jsonl"):
        train(repository / "recipes" / "grid_nano.yaml", [*overrides, f"output={tmp_path / 'run'}"])


@pytest.mark.slow
def test_a_run_of_another_recipe_is_refused_before_anything_is_decoded(run, small_grid, repository, tmp_path):
    overrides = [f"output={run[0]}", f"data.sources.0.root={small_grid}", f"data.cache={tmp_path / 'cache'}", "seed=1"]
    with pytest.raises(ValueError, match="another recipe"):
        train(repository / "recipes" / "grid_nano.yaml", overrides)
    assert not (tmp_path / "cache").exists()
