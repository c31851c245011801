"""From checkpoints of other architectures to an answer: init, fine-tune with LoRA, stop and go on, reload, ask."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mirasol.cli import main
from tests.clips import write_clip
from tests.convert.parts import write_audio, write_text, write_vision
from tests.train.toy import saved_state

pytestmark = pytest.mark.slow  # trains
QUESTION = "which color is named?"
SMALL = [
    "device=cpu",
    "bf16=false",
    "model.lora={rank: 2, alpha: 4, dropout: 0.1}",
    "data.num_workers=0",
    "optimizer.learning_rate=3e-3",
    "schedule={pretrain_epochs: 1, finetune_epochs: 2, batch_size: 2}",
    "validation.every_epochs=3",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A manifest of two clips to train on and one to validate on."""
    root = tmp_path_factory.mktemp("data")
    for split, names in (("train", "ab"), ("val", "c")):
        lines = []
        for number, name in enumerate(names):
            write_clip(root / f"{name}.mp4", seconds=0.9, at=(0.1 + 0.3 * number,))
            lines.append(json.dumps({"media": f"{name}.mp4", "question": QUESTION, "answer": ["red", "blue"][number]}))
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    """The checkpoint that `mirasol init` makes of a SigLIP, an AST and a Qwen3."""
    root = tmp_path_factory.mktemp("parts")
    write_vision("siglip", root / "siglip")
    write_audio(root / "ast")
    write_text("qwen3", root / "qwen3")
    names = ["--vision", str(root / "siglip"), "--audio", str(root / "ast"), "--text", str(root / "qwen3")]
    overrides = ["video_config.num_frames=4", "audio_config.num_mel_frames=32"]
    assert main(["init", *names, "-o", str(root / "initial"), *overrides]) == 0
    return root / "initial"


@pytest.fixture(scope="module")
def command(repository, initial, data) -> list[str]:
    """The command of docs/pretrained.md, with the shipped recipe, made small."""
    recipe = repository / "recipes" / "pretrained_parts.yaml"
    paths = [f"model.checkpoint={initial}", f"data.sources.0.root={data}", f"data.cache={data / 'cache'}"]
    return ["train", str(recipe), *paths, *SMALL]


@pytest.fixture(scope="module")
def run(tmp_path_factory, command):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main([*command, f"output={folder}"]) == 0
    return folder


def test_towers_stay_and_the_decoder_moves_within_its_own_names(initial, run):
    before, after = load_file(initial / "model.safetensors"), load_file(run / "best" / "model.safetensors")
    assert set(before) == set(after)  # adapters are merged: the checkpoint needs no PEFT
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name])}
    kept = ("model.encoder.video_encoder.", "model.encoder.audio_encoder.", "model.decoder.embed_tokens.")
    assert not {name for name in changed if name.startswith(kept)}
    assert "model.decoder.layers.0.self_attention.v_proj.weight" in changed
    assert "model.decoder.layers.2.cross_attention_gate" in changed
    assert any(name.startswith("model.encoder.combiner.") for name in changed)


def test_a_run_that_stops_and_goes_on_ends_with_the_same_weights(command, run, tmp_path):
    folder = tmp_path / "stopped"
    for limit in ("0", "null"):
        assert main([*command, f"output={folder}", f"schedule.time_limit_minutes={limit}"]) == 0
    assert len(json.loads((folder / "environment.json").read_text())) == 2
    whole, resumed = (saved_state(path / "checkpoints" / "checkpoint-3") for path in (run, folder))
    assert [name for name in whole if ".lora_B." in name]
    assert not [name for name, weight in whole.items() if not torch.equal(resumed[name], weight)]


def test_the_fine_tuned_checkpoint_answers(run, data, capsys):
    assert main(["ask", str(data / "c.mp4"), QUESTION, "--checkpoint", str(run / "best"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sound"] == "used" and answer["num_frames"] > 10 and 0 <= answer["confidence"] <= 1
