"""The ablation's scripts: clips survive packing, a sweep resumes, and tables claim only what is clear."""

import json
import queue
import sys
import threading
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

WORDS = (
    ("bin", "lay", "place", "set"), ("blue", "green", "red", "white"), ("at", "by", "in", "with"), tuple("abcdefgh"),
    ("one", "two", "three", "four"), ("again", "now", "please", "soon"),
)  # fmt: skip
ROWS = """
defaults: { seeds: 1, steps: 2, batch_size: 2 }
tasks: {}
floors: { agree: 1.1 }
rows:
  - { name: words/base }
  - { name: agree/base }
  - { name: agree/hopeless }
  - { name: words/late, direction: both, num_chunks: 2, set: { combiner_config.combiner_type: perceiver } }
"""


@pytest.fixture
def scripts(repository, monkeypatch):
    """Importer of the scripts in benchmarks/ablation."""
    monkeypatch.syspath_prepend(repository / "benchmarks" / "ablation")
    yield import_module
    for name in ("packed", "table", "questions", "sweep", "training"):
        sys.modules.pop(name, None)


@pytest.fixture
def pack(scripts, tmp_path):
    """A file of eight made-up sentences, two of them val."""
    packed, rng = scripts("packed"), np.random.default_rng(0)
    labels = np.array([[words[i % len(words)] for words in WORDS] for i in range(8)])
    time = np.arange(40_960) / 16_000
    sound = 0.5 * np.sin(2 * np.pi * (200 + 50 * np.arange(8))[:, None] * time).astype(np.float32)
    frames = np.repeat(rng.integers(0, 255, (8, 64, 1, 1, 3), dtype=np.uint8), 32, axis=2).repeat(32, axis=3)
    made = packed.Clips(frames, sound, labels, np.arange(8) >= 6)
    packed.save(tmp_path / "clips.npz", {"grid": made})
    return tmp_path / "clips.npz", made


def test_packed_clips_come_back_as_they_were(scripts, pack):
    """Sound within 6 bits of mu-law, about 25 dB below it; frames within JPEG's loss; the rest exactly."""
    path, made = pack
    found = scripts("packed").load(path)["grid"]

    assert found.sound.shape == made.sound.shape
    assert np.square(found.sound - made.sound).mean() < np.square(made.sound).mean() / 100
    assert np.abs(found.frames.astype(int) - made.frames).mean() < 4
    assert (found.labels == made.labels).all() and (found.is_val == made.is_val).all()


@pytest.mark.slow
def test_a_sweep_writes_every_run_once_and_resumes(scripts, pack, tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.yaml").write_text(ROWS)
    output = tmp_path / "out.jsonl"
    command = ["sweep.py", str(tmp_path / "rows.yaml"), "--clips", str(pack[0]), "--output", str(output)]

    def run(*options):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        scripts("sweep").main()
        return capsys.readouterr().out

    assert "1 runs to do, 0 done" in run("--only", "words/base")
    printed = run()
    assert "3 runs to do, 1 done" in printed and "left out: agree/hopeless" in printed
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["name"], line["seed"]) for line in lines] == [
        ("words/base", 0),
        ("agree/base", 0),
        ("words/late", 0),
    ]
    lines.pop(1)
    for line in lines:
        assert len(line["right"]) == len(line["kinds"]) == len(line["units"]) == 180 * 6
        assert line["units"] == lines[0]["units"], "every run must be asked the same"
        shares = [
            np.mean([r == "1" for r, k in zip(line["right"], line["kinds"], strict=True) if k == kind])
            for kind in line["accuracy"]
        ]
        assert line["mean"] == pytest.approx(np.mean(shares))


def row(name, seeds, num_units=40):
    """Lines of a row whose seeds answer so many of `num_units` clips' two questions right."""
    kinds, units = ["a", "b"] * num_units, [unit for unit in range(num_units) for _ in "ab"]
    for seed, right in enumerate(seeds):
        answers = "".join("1" * 2 if unit < right else "0" * 2 for unit in range(num_units))
        yield {
            "name": name, "seed": seed, "mean": right / num_units, "accuracy": dict.fromkeys("ab", right / num_units),
            "kinds": kinds, "units": units, "right": answers,
            "parameters": 1, "flops": None, "seconds": 1, "peak_mib": 1,
        }  # fmt: skip


def test_a_difference_is_clear_only_if_neither_interval_nor_seeds_overlap(scripts, tmp_path):
    table = scripts("table")
    lines = [
        *row("t/base", (20, 21, 22)),
        *row("t/better", (33, 34, 35)),
        *row("t/noisy", (20, 33, 34)),
        *row("t/same", (20, 21, 23)),
    ]
    path = tmp_path / "out.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))

    rows = table.read(path)
    found = {name: table.difference(rows[name], rows["t/base"]) for name in rows}

    assert found["t/better"].value == pytest.approx(13 / 40)
    assert found["t/noisy"].low > 0, "its clips agree, its seeds do not"
    clear = {name: table.is_clear(rows[name], rows["t/base"], found[name]) for name in rows}
    assert clear == {"t/base": False, "t/better": True, "t/noisy": False, "t/same": False}
    text = table.table(rows, "t")
    assert "| better | 3 | 85.0 (82.5, 87.5) | +32.5 [" in text and "| yes |" in text


@pytest.fixture
def sets(scripts):
    """Fourteen sentences, six of them val; six classes of sounds and of objects, each once in train and in val.

    Red of a frame is its clip, green its number; a sample is the number of its clip from 1 on, over 20.
    """
    clips, rng = scripts("packed").Clips, np.random.default_rng(0)
    words = np.array([[rng.choice(words) for words in WORDS] for _ in range(14)])
    words[:, 3] = [*"abcdefgh", *"abcdef"]
    classes = np.array([[f"class {i // 2}"] for i in range(12)])

    def frames(count: int, length: int) -> np.ndarray:
        made = np.zeros((count, length, 32, 32, 3), np.uint8)
        made[..., 0], made[..., 1] = np.ogrid[:count, :length, :1, :1][:2]
        return made

    def sound(count: int, length: int) -> np.ndarray:
        return np.repeat(np.arange(1, count + 1, dtype=np.float32)[:, None] / 20, length, axis=1)

    is_val = np.arange(12) % 2 == 1
    return {
        "grid": clips(frames(14, 64), sound(14, 40_960), words, np.arange(14) >= 8),
        "esc10": clips(None, sound(12, 20_480), classes, is_val),
        "drone": clips(frames(12, 13), None, np.char.replace(classes, "class", "thing"), is_val, 10),
    }


def truth(sets, task: str, item, kind: str, question: str) -> str:
    """The answer, read from the labels of the clips that are seen and heard."""
    slots = ("command", "color", "preposition", "letter", "digit", "adverb")
    words, names = question.split(), question.split("|")[1::2]
    if task == "order":
        order = {"seen": sets["drone"].labels[item.seen, 0], "heard": sets["esc10"].labels[item.heard, 0]}
        order = {name: labels.tolist() for name, labels in order.items()}
        if kind == "together":
            return order[words[2]][order["heard" if words[2] == "seen" else "seen"].index(names[0])]
        return min(names, key=order[kind].index)
    if kind == "agree":
        return "yes" if item.seen == item.heard else "no"
    said = sets["grid"].labels[item.seen if kind == "seen" else item.heard]
    if kind == "nth":
        ordinals = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
        return said[ordinals.index(words[-3]), slots.index(words[1])]
    if kind in ("after", "next"):
        place = said[:, 3].tolist().index(words[-2])
        return said[place, 4] if kind == "after" else said[place + 1, 1]
    return said[0, slots.index(words[1])]


@pytest.mark.parametrize("task", ["words", "films", "order", "agree"])
def test_every_question_has_its_answer_and_val_is_never_trained_on(scripts, sets, task):
    questions, rng = scripts("questions"), np.random.default_rng(1)
    picture, sound = (sets[getattr(questions.TASKS[task], part)] for part in ("picture", "sound"))
    trained = [questions.draw(task, sets, rng, False, i) for i in range(40)]
    val = questions.evaluation_items(task, sets)
    assert val == questions.evaluation_items(task, sets), "every run is asked the same"
    assert len(val) == questions.TASKS[task].num_eval
    for items, is_val in ((trained, False), (val, True)):
        for clips, name in ((picture, "seen"), (sound, "heard")):
            used = {clip for item in items for clip in getattr(item, name)}
            assert used == set(np.flatnonzero(clips.is_val == is_val)), "all clips of the split, and no other"
        for item in items:
            assert all(answer == truth(sets, task, item, kind, question) for kind, question, answer in item.questions)
        if task == "agree":
            assert 0.3 < np.mean([item.seen == item.heard for item in items]) < 0.7
    if task == "words":
        few = [questions.draw(task, sets, rng, is_val, i, limit=3) for is_val in (False, True) for i in range(40)]
        assert {item.unit for item in few} == {0, 1, 2, *range(8, 14)}, "the limit is that of training alone"


class Parrot(torch.nn.Module):
    """A model that gives the right answers, which are among its tokens, but for questions with the token `wrong`."""

    def __init__(self, wrong: int):
        super().__init__()
        self.wrong = wrong

    def forward(self, decoder_input_ids, **inputs):
        logits = torch.nn.functional.one_hot(decoder_input_ids.roll(-1, 1), 256).float()
        logits[(decoder_input_ids == self.wrong).any(1)] = 0
        return SimpleNamespace(logits=logits)


def test_every_run_is_evaluated_on_the_same_items_in_the_same_noise(scripts, sets, monkeypatch):
    training, heard, found = scripts("training"), [], []
    bank, silence = training.Bank(sets, torch.device("cpu")), torch.ones(20, 256, 128)
    monkeypatch.setattr(training, "mel_power", lambda waveform, bins: (heard.append(waveform), silence)[1])
    runs = {}, {"seed": 7, "num_chunks": 3, "batch_size": 2}, {"frames_per_chunk": 16, "modality": "sound"}
    for number, changes in enumerate(runs):
        torch.manual_seed(number)
        run = training.Run(f"words/{number}", "words", **changes)
        found.append(training.evaluate(run, Parrot(bank.ids["letter"]), bank))
    heard = [torch.cat(heard[9 * number : 9 * number + 9])[:, -40_960:] for number in range(3)]
    assert torch.equal(heard[0], heard[1]) and torch.equal(heard[0], heard[2])
    clean = torch.from_numpy(sets["grid"].sound[[item.unit for item in training.evaluation_items("words", sets)], :1])
    louder = (heard[0] - clean).square().mean(1, keepdim=True) / clean.square()
    torch.testing.assert_close(10 * louder.log10(), torch.full((180, 1), 5.0), atol=0.2, rtol=0)  # of 40,960 draws
    for each in found:
        assert each["accuracy"] == {name: float(name != "letter") for name in scripts("questions").SLOTS}
        assert each["mean"] == pytest.approx(5 / 6) and each["right"] == "111011" * 180
        assert each["units"] == [unit for unit in [*range(8, 14)] * 30 for _ in range(6)]


def test_each_chunk_shows_and_plays_its_seconds_of_the_clips(scripts, sets, monkeypatch):
    training, seconds = scripts("training"), np.arange(40_960, dtype=np.float32) / 16_000
    sets["grid"] = replace(sets["grid"], sound=np.arange(14, dtype=np.float32)[:, None] + seconds / 10)
    bank, item = training.Bank(sets, torch.device("cpu")), training.Item(0, [3, 9, 5], [2, 4, 8])
    every_10_ms = slice(training.LOOKBACK_SAMPLES, None, 160)
    monkeypatch.setattr(training, "mel_power", lambda waveform, bins: waveform[:, every_10_ms, None])
    monkeypatch.setattr(bank.extractor, "log_mel", lambda power: power)

    def batch(**changes):
        return bank.batch(training.Run("films/x", "films", **changes), [item], None, None, jitter=False)

    def places(starts, rate: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Number of the segment, and the second in its clip, of which 0.256 s are cut at both ends."""
        times = np.array(starts)[:, None] + np.arange(count) / rate + 1e-6
        return (times // 2.048).astype(int), times % 2.048 + 0.256

    whole = batch()
    # Three of the ten segments get three of ten chunks, each in the middle of its part, at a frame's second.
    for found, starts in ((whole, np.arange(19) * 0.32), (batch(num_chunks=10), [0.88, 2.92, 4.96])):
        spans = torch.tensor(np.array(starts), dtype=torch.float32)[:, None] + torch.tensor([0.0, 0.32])
        torch.testing.assert_close(found["chunk_times"][0], spans)
        red, green = ((found["pixel_values_videos"][0, :, :, :2, 0, 0] + 1) * 127.5).round().int().unbind(-1)
        segment, second = places(starts, 25, 8)
        assert (red.numpy() == np.array(item.seen)[segment]).all() and (green.numpy() == second * 25 // 1).all()
        segment, second = places(starts, 100, 32)
        expected = np.array(item.heard)[segment] + second / 10
        assert np.allclose(found["input_features"][0, :, :, 0], expected, atol=1e-4)
    for modality, absent, kept in (
        ("sound", "pixel_values_videos", "input_features"), ("picture", "input_features", "pixel_values_videos"),
    ):  # fmt: skip
        only = batch(modality=modality)
        assert not only[absent].any() and torch.equal(only[kept], whole[kept])
        assert [bool(only[f"{track}_chunk_mask"].all()) for track in ("video", "audio")] == [
            modality == track for track in ("picture", "sound")
        ]


def test_training_draws_by_its_seed_through_curriculum_and_falling_noise(scripts, sets, monkeypatch):
    training = scripts("training")
    bank, drawn, rates = training.Bank(sets, torch.device("cpu")), [], []

    class Model(torch.nn.Linear):
        def forward(self, **inputs):
            return SimpleNamespace(loss=self.weight.sum())

    def optimizer(model, rate):
        made = torch.optim.SGD(model.parameters(), lr=rate)
        made.register_step_pre_hook(lambda *_: rates.append(made.param_groups[0]["lr"]))
        return made

    def batch(run, items, generator, noise, jitter):
        drawn.append((items, noise))
        assert jitter
        return {}

    monkeypatch.setattr(bank, "batch", batch)
    monkeypatch.setattr(training, "optimizer_of", optimizer)

    def fit(task, seed=0, captions=False, **changes):
        drawn.clear()
        run = training.Run("x", task, seed=seed, batch_size=3, learning_rate=0.1, **changes)
        training.fit(run, Model(1, 1), bank, 20, captions, float("inf"), int(captions))
        return list(drawn)

    once = fit("words")
    assert [rate / 0.1 for rate in rates[:2]] == pytest.approx([0.5, 0.01 + 0.99 * (1 + np.cos(np.pi / 20)) / 2])
    assert 0.1 * 0.01 < rates[-1] < 0.1 * 0.02
    assert [items for items, _ in once] == [items for items, _ in fit("words")] != [i for i, _ in fit("words", seed=1)]
    assert len({item.unit for items, _ in once for item in items}) == 8
    assert {item.unit for items, _ in fit("words", train_clips=2) for item in items} == {0, 1}
    assert len({item.unit for items, _ in fit("words", captions=True, train_clips=2) for item in items}) == 8
    noise = torch.stack([noise for _, noise in once])
    extra = 20 * (1 - torch.arange(20) / 8).clamp(min=0)[:, None]
    assert ((noise - extra >= -10) & (noise - extra <= 0)).all() and noise[8:].std() > 1, "clean words first"
    assert [len(items[0].seen) for items, _ in fit("order")] == [2] * 6 + [4] * 14


def test_pretraining_comes_first_at_equal_weights_and_the_causal_mask_is_put_back(scripts, monkeypatch):
    training, calls = scripts("training"), []
    temporal = training.modeling_mirasol_temporal
    causal = temporal.chunk_causal_mask

    def build(*_):
        config = SimpleNamespace(text_weight=10.0, latent_weight=0.0, video_weight=1.0)
        equal = dict.fromkeys(vars(config), 1.0)
        return SimpleNamespace(config=config, set_objective=lambda _: vars(config).update(equal), parameters=list)

    def fit(run, model, bank, steps, captions, deadline, stage):
        calls.append((steps, captions, stage, [*vars(model.config).values()]))
        assert temporal.chunk_causal_mask is not causal
        assert torch.equal(temporal.chunk_causal_mask(torch.ones(2, 3), 4), torch.ones(2, 1, 12, 12, dtype=torch.bool))
        if run.seed == 2:
            raise training.OutOfTime

    for name, value in (("build", build), ("fit", fit), ("evaluate", lambda *_: {}), ("forward_flops", lambda *_: 7)):
        monkeypatch.setattr(training, name, value)
    bank = SimpleNamespace(device=torch.device("cpu"))
    runs = [training.Run("few/x", "words", seed, steps=10, pretrain=1.5, direction="both") for seed in range(3)]
    assert [training.execute(run, bank, None)["flops"] for run in runs[:2]] == [7, None], "counted once a row"
    assert calls == [(15, True, 1, [1.0, 1.0, 1.0]), (10, False, 0, [10.0, 0.0, 1.0])] * 2
    with pytest.raises(training.OutOfTime):
        training.execute(runs[2], bank, None)
    assert temporal.chunk_causal_mask is causal
    with training.direction(training.Run("words/x", "words")):
        assert temporal.chunk_causal_mask is causal


def test_a_run_builds_what_its_row_says(scripts, sets):
    training, shipped = scripts("training"), scripts("sweep").SHIPPED
    bank = training.Bank(sets, torch.device("cpu"))
    values = {"latent_weight": 0.0, "temporal_config.window_chunks": 1, "temporal_config.num_hidden_layers": 1}
    models = [training.build(training.Run("x", "words", seed=seed, set=values), bank, shipped) for seed in (3, 3, 4)]
    config = models[0].config
    assert (config.latent_weight, config.video_weight, config.text_weight) == (0.0, 1.0, 10.0)
    assert (config.temporal_config.window_chunks, config.num_latents, config.image_size) == (1, 16, 32)
    towers = ("model.encoder.video_encoder.", "model.encoder.audio_encoder.")
    warm = {name: value.float() for name, value in load_file(shipped).items() if name.startswith(towers)}
    again, other = (
        [torch.equal(models[0].state_dict()[name], each.state_dict()[name]) for name in each.state_dict()]
        for each in models[1:]
    )
    assert all(again) and not all(other)
    assert warm and all(torch.equal(each.state_dict()[name], warm[name]) for each in models for name in warm)
    with pytest.raises(ValueError, match="x: with warm=true .* Set warm: false"):
        training.build(training.Run("x", "words", set={"share_encoder": True}), bank, shipped)


def test_a_sweep_does_each_missing_seed_at_the_scale_it_began_with_and_leaves_out_hopeless_groups(
    scripts, tmp_path, monkeypatch, capsys
):
    sweep, output = scripts("sweep"), tmp_path / "out.jsonl"
    (tmp_path / "rows.yaml").write_text("""
defaults: { seeds: 2, steps: 9, batch_size: 1 }
tasks: {}
floors: { words: 0.3, agree: 0.5 }
rows: [{ name: words/base }, { name: words/x }, { name: agree/base }, { name: agree/hopeless }, { name: films/x }]
""")
    means = {"words/base": 0.4, "agree/base": 0.4}

    def line(name: str, seed: int, **more) -> dict:
        mean = means.get(name, 0.1)
        about = {"name": name, "seed": seed, "right": "1", "mean": mean, "accuracy": {"a": mean}}
        return about | {"seconds": 1, "loss": 0.0} | more

    class Queue(queue.Queue):
        def cancel_join_thread(self):
            pass

    class Process(threading.Thread):
        exitcode = None

        def run(self):
            try:
                super().run()
                self.exitcode = 0
            except AssertionError:
                self.exitcode = 1  # as of a process: the sweep sees it and ends

    def work(number, arguments, todo, results, *_):
        assert not arguments.fit, "the steps were timed before"
        while (run := todo.get()) is not None:
            results.put(line(run.name, run.seed, steps=run.steps))
        results.put({"done": number})

    context = SimpleNamespace(Queue=Queue, Process=Process, Barrier=threading.Barrier)
    monkeypatch.setattr(sweep.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(sweep, "work", work)
    command = ["sweep.py", str(tmp_path / "rows.yaml"), "--clips", "x.npz", "--output", str(output), "--fit", "3"]
    monkeypatch.setattr(sys, "argv", command)
    known = [{"factor": 0.5}, line("words/base", 0), line("words/x", 1)]
    output.write_text("".join(f"{json.dumps(each)}\n" for each in known))
    sweep.main()
    assert "8 runs to do, 2 done" in (printed := capsys.readouterr().out)
    assert printed.count("left out: agree/hopeless") == 2
    added = [json.loads(each) for each in output.read_text().splitlines()][3:]
    expected = ["words/base 1", "words/x 0", "agree/base 0", "agree/base 1", "films/x 0", "films/x 1"]
    assert [f"{each['name']} {each['seed']}" for each in added] == expected, "a group without base has no floor"
    assert {each["steps"] for each in added} == {4}
    sweep.main()
    assert "2 runs to do, 8 done" in capsys.readouterr().out and len(output.read_text().splitlines()) == 9


def test_rows_take_their_groups_values_over_the_defaults_and_their_own_over_both(scripts, tmp_path):
    sweep, path = scripts("sweep"), tmp_path / "rows.yaml"
    path.write_text("""
defaults: { seeds: 2, steps: 8, batch_size: 3 }
tasks: { last: { task: words, steps: 7 } }
rows: [{ name: last/base }, { name: last/long, steps: 9, seeds: 1 }, { name: films/base }]
""")
    runs, floors = sweep.read_rows(path)
    assert [(run.name, run.task, run.seed, run.steps, run.batch_size) for run in runs] == [
        ("last/base", "words", 0, 7, 3), ("last/base", "words", 1, 7, 3), ("last/long", "words", 0, 9, 3),
        ("films/base", "films", 0, 8, 3), ("films/base", "films", 1, 8, 3),
    ]  # fmt: skip
    assert not floors and [run.name for run in sweep.read_rows(path, "last/l")[0]] == ["last/long"]
    path.write_text("{ defaults: { seeds: 1, step: 3 }, tasks: {}, rows: [{ name: words/base }] }")
    with pytest.raises(SystemExit, match="words/base: .*'step'.*fields of Run"):
        sweep.read_rows(path)
    Run = scripts("training").Run
    runs = [
        Run("words/a", "words", steps=100),
        Run("words/b", "words", steps=100, pretrain=2.0),
        Run("films/a", "films", steps=100),
    ]
    needed = sweep.OVERHEAD * (100 * 0.1 + 300 * 0.1 + 100 * 0.2)
    assert sweep.factor_of(runs, {"words": 0.1, "films": 0.2}, 2, 0.4 * needed) == 0.8
    assert sweep.factor_of(runs[:2], {"films": 0.2}, 1, 1.3 * 80) == 1.0, "an untimed task is as slow as the slowest"
    assert [sweep.factor_of(runs, {"words": 0.1}, 1, budget) for budget in (0.1, 1e6)] == [*sweep.FACTORS]


def test_a_difference_is_paired_by_question_and_seed_and_each_kind_counts_the_same(scripts):
    table = scripts("table")

    def row(name, *seeds):
        asked = {"kinds": list("aaab" * 30), "units": [unit for unit in range(30) for _ in range(4)]}
        return table.Row(name, {seed: {**asked, "right": right} for seed, right in enumerate(seeds)})

    # On every clip the row is right where the base is, and on b beside; the base's third seed, all wrong, is no pair.
    base = row("t/base", "1000" * 30, "0100" * 30, "0000" * 30)
    better = row("t/better", "1001" * 30, "0101" * 30)
    found = table.difference(better, base)
    assert (found.value, found.low, found.high, found.num_clips) == (0.5, 0.5, 0.5, 30), "half of the two kinds"
    assert table.difference(better, base, "a").value == 0.0 and table.difference(better, base, "b").value == 1.0
    # As many right, on other clips: the difference is zero, and what differs from clip to clip shows in the interval.
    swapped = table.difference(row("t/x", "1111" * 15 + "0000" * 15), row("t/y", "0000" * 15 + "1111" * 15))
    assert swapped.value == 0.0 and swapped.low < -0.25 and swapped.high > 0.25
    other = table.Row("t/x", {7: better.runs[0]})
    assert table.difference(other, base).points == "–", "no seed that both have"
    fewer = table.difference(row("t/x", "0000" * 30), row("t/y", "1000" * 30))
    assert fewer.value == pytest.approx(-1 / 6, abs=1e-6) and fewer.high < 0


def test_one_seed_and_an_interval_that_touches_zero_are_not_clear(scripts):
    table = scripts("table")
    row = lambda *means: table.Row("t/x", {seed: {"mean": mean} for seed, mean in enumerate(means)})  # noqa: E731
    apart = [row(0.5, 0.6), row(0.1, 0.2)]
    for pair, low, high, is_clear in (
        (apart, 0.1, 0.3, True), (apart[::-1], -0.3, -0.1, True), (apart, 0.0, 0.3, False), (apart, -0.3, 0.0, False),
        ([row(0.5), row(0.1, 0.2)], 0.1, 0.3, False), ([row(0.5, 0.6), row(0.1)], 0.1, 0.3, False),
        ([row(0.5, 0.6), row(0.1, 0.5)], 0.1, 0.3, False),
    ):  # fmt: skip
        assert table.is_clear(*pair, table.Interval(0.2, low, high, 9)) == is_clear
