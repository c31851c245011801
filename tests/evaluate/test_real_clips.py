"""The real path: official questions about real clips of ActivityNet-QA and VGG-Sound, from the published files to the
report. The answers of the shipped checkpoint, which has only seen GRID, are wrong: the path is what is tested."""

import json

import pytest

from mirasol.cli import main

CLIPS = {
    "activitynet_qa": ("activitynet_v_GGSY1Qvo990.mp4", "v_GGSY1Qvo990.mp4", "val", 1800, 10),
    "vggsound": ("vggsound_dog_barking_3qesirWAGt4_20.mp4", "3qesirWAGt4_000020.mp4", "test", 15446, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", list(CLIPS))
def test_official_questions_about_a_real_clip_are_answered_and_reported(shared, tmp_path, capsys, task):
    file, name, split, asked, num_questions = CLIPS[task]
    source = shared / "data" / "clips" / "research_only" / file
    if not source.is_file():
        pytest.skip(f"needs {source}, which is not on this machine")
    root = tmp_path / "root"
    (root / "videos").mkdir(parents=True)
    for path in (shared / "data" / "annotations" / task).iterdir():
        (root / path.name).symlink_to(path)
    (root / "videos" / name).symlink_to(source)
    options = ["--rank"] if task == "vggsound" else []
    run = tmp_path / "run"
    arguments = ["evaluate", "--task", task, "--root", str(root), "--split", split, "--output", str(run), *options]
    assert main(arguments) == 0
    assert f"{asked - 1} of {asked} clips are missing" in capsys.readouterr().err
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["clips"]["asked"], metrics["clips"]["answered"]) == (asked, 1)
    assert metrics["clips"]["with_sound"] == 1
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == num_questions
    for prediction in predictions:
        assert prediction["sound_used"] is True and prediction["seconds_covered"] > 10
        assert prediction["log_likelihood"] < 0
    if task == "vggsound":
        assert predictions[0]["answer"] == "dog barking"
        assert len(predictions[0]["option_log_likelihoods"]) == 309 and len(predictions[0]["ranked"]) == 5
        assert set(metrics["class_ranking"]) >= {"mAP", "top_5"}
    page = (run / "report.html").read_text()
    assert "of 3 billion parameters" in page and "data:image/jpeg;base64," in page


def test_a_task_a_split_and_a_class_list_that_do_not_fit_are_refused(grid_root, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert main(["evaluate", "--root", str(grid_root), *arguments]) == 2
        return capsys.readouterr().err

    assert "Did you mean 'vggsound'" in refused("--task", "vgsound")
    assert "expected split" in refused("--split", "tset").lower()
    assert "Expected no class list" in refused("--classes", str(tmp_path / "names.txt"))
    assert "drop --audit" in refused("--audit", "--condition", "sound")
