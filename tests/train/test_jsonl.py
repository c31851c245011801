"""Own data from manifest to answer: clips with sound and without, one recipe, a checkpoint that `ask` takes."""

import json

import pytest

from mirasol.evaluate.ask import ask
from mirasol.train.run import train

TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}


@pytest.mark.slow
def test_own_clips_train_and_the_checkpoint_answers(repository, tmp_path):
    clips = repository / "data" / "clips"
    lines = {
        "train": {"media": str(clips / "toy_frog.mp4"), "question": "what moves?", "answer": "a frog"},
        "val": {"media": str(clips / "helicopter_noaudio.mp4"), "questions": ["what flies?"], "answers": ["a copter"]},
    }
    for split, line in lines.items():
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    towers = [f"model.overrides.{part}_config" for part in ("video", "audio", "combiner", "temporal")]
    result = train(
        repository / "recipes" / "grid_nano.yaml",
        [
            f"output={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", "data.task=jsonl",
            f"data.root={tmp_path}", "data.num_workers=0", "device=cpu", "processor.max_chunks=3",
            "schedule.batch_size=1", "schedule.pretrain_epochs=0", "schedule.finetune_epochs=2",
            "data.augmentation.sound_first_epochs=0", "validation.every_epochs=2",
            "validation.metric=exact_match_both",
            "validation.conditions=[both]", "model.overrides.text_config.num_hidden_layers=1",
            *(f"{tower}.{name}={value}" for tower in towers for name, value in TINY.items()),
        ],
    )  # fmt: skip
    assert result.step == result.num_steps == 2 and result.num_bad_clips == 0
    answer = ask(clips / "helicopter_noaudio.mp4", "what flies?", checkpoint=tmp_path / "run" / "best")
    assert answer.sound == "not found"
