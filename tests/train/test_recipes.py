"""Every recipe in recipes/ is valid, tells what it costs, and, made tiny, trains from its data to a checkpoint."""

import json
import os
from pathlib import Path

import pytest
from clips import write_clip

from mirasol.report.training import read_lines, write_training_report
from mirasol.train.plan import plan
from mirasol.train.recipe import load_recipe
from mirasol.train.run import train

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
OF_BENCHMARKS = {
    "finetune_msrvtt_qa": "msrvtt_qa", "finetune_activitynet_qa": "activitynet_qa", "finetune_nextqa": "nextqa_mc",
    "finetune_kinetics_sounds": "kinetics_sounds", "finetune_vggsound": "vggsound",
    "finetune_epic_sounds": "epic_sounds",
}  # fmt: skip
AT_FULL_SIZE = ("finetune_msrvtt_qa", "finetune_activitynet_qa")
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
TINY = [
    "device=cpu", "bf16=false", "save_steps=100", "data.num_workers=0", "schedule.batch_size=2",
    "schedule.gradient_accumulation_steps=1", "validation.max_clips=2", "validation.every_epochs=1",
    "model.compile=false", "processor.max_chunks=2",
]  # fmt: skip
NEW = [
    "model.preset=nano", "processor.vocab_size=300", "model.overrides.text_config.num_hidden_layers=1",
    *(f"model.overrides.{part}_config.{name}={value}" for part in ("video", "audio", "combiner", "temporal")
      for name, value in SMALL.items()),
]  # fmt: skip
NUM_CLIPS = 6

pytestmark = pytest.mark.filterwarnings("ignore:.*the published .* split:UserWarning")


def new_weights(path: Path) -> list[str]:
    """A preset in place of a checkpoint that is not there: the paper's size of two, with 128 and 512 frames."""
    wanted = load_recipe(path).model.checkpoint
    is_there = wanted is None or wanted == "shipped" or (Path(wanted) / "config.json").is_file()
    return (
        [] if is_there else ["model.checkpoint=null", f"model.preset={'3b' if path.stem in AT_FULL_SIZE else 'nano'}"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_tells_what_it_costs(path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    found = plan(path, new_weights(path), num_clips=100_000)
    assert found.fits and found.hours > 0 and found.trained_parameters > 0


def test_fine_tuning_is_as_the_paper_says(repository):
    """Text weight 10, 128 frames, and 512 with the TTM Combiner where its best numbers are."""
    for name, task in OF_BENCHMARKS.items():
        recipe = load_recipe(repository / "recipes" / f"{name}.yaml")
        assert recipe.data.sources[0].task == task and recipe.schedule.pretrain_epochs == 0
        is_long = task in ("activitynet_qa", "nextqa_mc")
        assert recipe.processor.max_chunks == (64 if is_long else 16)
        assert ("ttm" in recipe.model.checkpoint) == (is_long or task == "epic_sounds")
    assert load_recipe(repository / "recipes" / "finetune_activitynet_qa.yaml").schedule.finetune_epochs == 80


def test_a_recipe_extends_another_key_by_key(tmp_path):
    (tmp_path / "below.yaml").write_text("seed: 3\noptimizer: {name: adamw, learning_rate: 0.5}\n")
    (tmp_path / "above.yaml").write_text("extends: below.yaml\noptimizer: {learning_rate: 0.25}\n")
    recipe = load_recipe(tmp_path / "above.yaml", ["seed=4"])
    assert (recipe.seed, recipe.optimizer.name, recipe.optimizer.learning_rate) == (4, "adamw", 0.25)
    (tmp_path / "below.yaml").write_text("extends: above.yaml\n")
    with pytest.raises(ValueError, match="extending itself"):
        load_recipe(tmp_path / "above.yaml")
    (tmp_path / "below.yaml").unlink()
    with pytest.raises(ValueError, match=r"below.yaml, which .*above.yaml extends"):
        load_recipe(tmp_path / "above.yaml")


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """Tiny data of every benchmark in its published form: one clip of a second by all its names."""
    top = tmp_path_factory.mktemp("data")
    clip = top / "clip.mp4"
    write_clip(clip, seconds=1.0)
    ids = [f"-{number}_abcdefgh" for number in range(NUM_CLIPS)]
    found = {}

    def root(task: str, names: list[str], **files: str) -> None:
        found[task] = folder = top / task
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        for name in names:
            os.link(clip, folder / name)

    def qa(first: int) -> str:
        return json.dumps([
            {"id": 10 * n, "question": "what beeps?", "answer": "it", "category_id": 1, "video_id": n}
            for n in range(first, first + 2)
        ])  # fmt: skip

    root("msrvtt_qa", [f"video{n}.mp4" for n in range(4)], **{"train_qa.json": qa(0), "val_qa.json": qa(2)})
    asked = {
        split: [{"video_name": f"{split}{n}", "question": "who", "question_id": f"v_{split}{n}_1"} for n in range(2)]
        for split in ("train", "val")
    }
    answered = {}
    for split, entries in asked.items():
        answers = [{"answer": "ann", "type": 8, "question_id": entry["question_id"]} for entry in entries]
        answered[f"{split}_a.json"] = json.dumps(answers)
    questions = {f"{split}_q.json": json.dumps(entries) for split, entries in asked.items()}
    root("activitynet_qa", [f"v_{split}{n}.mp4" for split in asked for n in range(2)], **questions, **answered)
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    tables = {
        f"{split}.csv": header + "".join(f"{n},25,64,48,how many,1,0,DC,one,two,six,ten,none\n" for n in numbers)
        for split, numbers in {"train": (11, 12), "val": (13, 14)}.items()
    }
    places = json.dumps({str(n): f"0001/{n}" for n in range(11, 15)})
    root("nextqa_mc", [], **tables, **{"map_vid_vidorID.json": places})
    (found["nextqa_mc"] / "0001").mkdir()
    for n in range(11, 15):
        os.link(clip, found["nextqa_mc"] / "0001" / f"{n}.mp4")
    names = [f"{name}_000030.mp4" for name in ids]
    listed = "".join(f'{name},"dog, cat"\n' for name in names)
    root("vggsound", names, **{"train.csv": listed, "stat.csv": '"dog, cat",9,animals\nrain,8,nature\n'})
    root(
        "kinetics_sounds", [f"{name}_000007_000017.mp4" for name in ids],
        **{"my_train.txt": "".join(f"{name}_7,10,0\n" for name in ids), "classes.csv": "0,playing organ\n"},
    )  # fmt: skip
    head = "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,description,class,class_id\n"
    rows = "".join(
        f"P01_1{n}_0,P01,P01_1{n},00:00:00.{n}00,00:00:00.{n + 3}00,clang,metal / wood collision,10\n"
        for n in range(NUM_CLIPS)
    )
    root("epic_sounds", [f"P01_1{n}.mp4" for n in range(NUM_CLIPS)], **{"EPIC_Sounds_train.csv": head + rows})
    captions = [{"media": f"{n}.mp4", "question": "what happens?", "answer": "it beeps"} for n in range(4)]
    root("captions", [f"{n}.mp4" for n in range(4)], **{
        "train.jsonl": "".join(json.dumps(line) + "\n" for line in captions[:2]),
        "val.jsonl": "".join(json.dumps(line) + "\n" for line in captions[2:]),
    })  # fmt: skip
    return found


@pytest.fixture(scope="module")
def pretrained(repository, roots, tmp_path_factory) -> Path:
    """The run folder of pretrain_3b, made tiny."""
    output = tmp_path_factory.mktemp("runs") / "pretrain"
    options = [*TINY, *NEW, f"data.sources.0.root={roots['captions']}", f"output={output}"]
    result = train(repository / "recipes" / "pretrain_3b.yaml", options, report=write_training_report)
    assert result.step == result.num_steps == 1 and result.export
    return output


@pytest.mark.slow
def test_pretraining_leaves_a_checkpoint_answers_and_a_page(pretrained):
    (line,) = read_lines(pretrained / "samples.jsonl")
    assert {sample["answer"] for sample in line["samples"]} == {"it beeps"} and len(line["samples"]) == 2
    page = (pretrained / "report.html").read_text(encoding="utf-8")
    for part in ("text loss", "mean score", "what happens?", "it beeps", "recompute_every: 1"):
        assert part in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_BENCHMARKS)
def test_fine_tuning_goes_from_the_published_files_to_a_checkpoint(repository, tmp_path, pretrained, roots, name):
    halves = ["data.sources.0.train_split=train[50%:]", "data.sources.0.val_split=train[:50%]"]
    options = [
        *TINY, f"data.sources.0.root={roots[OF_BENCHMARKS[name]]}", f"output={tmp_path}", "schedule.finetune_epochs=1",
        f"model.checkpoint={pretrained / 'best'}",
        *(halves if "sounds" in name or "vggsound" in name else []),
    ]  # fmt: skip
    result = train(repository / "recipes" / f"{name}.yaml", options)
    assert result.export and result.step == result.num_steps >= 1 and result.num_bad_clips == 0


@pytest.mark.slow
def test_parts_are_trained_frozen_and_then_thawed(repository, tmp_path, pretrained, roots):
    options = [
        *TINY, f"data.sources.0.root={roots['captions']}", f"output={tmp_path}", "schedule.finetune_epochs=1",
        f"model.checkpoint={pretrained / 'best'}", "data.cache=null",
    ]  # fmt: skip
    result = train(repository / "recipes" / "parts_24gb.yaml", options)
    assert result.export and result.step == result.num_steps == 2
