"""Runs of a tiny Mirasol on several processes, forked from one that has imported everything.

`python -m tests.train.ranks FOLDER [NAME ...]`

Every run trains on the same clips in the same order, whatever the number of processes.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from mirasol.data.sampler import EpochSampler
from mirasol.evaluate.processes import joined_processes
from mirasol.train.parallel import Layout, filled, gathered, local, shard_weights, skeleton, tensors_of
from mirasol.train.recipe_schema import OptimizerRecipe, ParallelRecipe, Recipe, ScheduleRecipe, ValidationRecipe
from mirasol.train.run import fit
from mirasol.train.tokenizer import build_tokenizer
from tests.model.tiny import media, questions, tiny_model, with_indices

STEP, NUM_STEPS = 8, 6  # clips a step; steps of the only epoch
# What the second half of a step's clips lacks: with 2 and 4 processes, these are whole batches of the last ones.
LACKING = ("nothing", "sound", "picture", "chunks", "answers", "nothing")
# Statistics of a part of a batch, and what is random, differ.
OFF = {"variance_weight": 0.0, "covariance_weight": 0.0, "combined_mask_probability": 0.0}
PARTS = ("video_config", "audio_config", "combiner_config", "text_config")
PATIENCE = 600.0  # seconds: a busy machine is no error


class TinyClips:
    """Clips whose place in the order decides what they lack; answers and clips are of unequal lengths."""

    cache = SimpleNamespace(bad={})

    def __init__(self, bad_from: int | None = None) -> None:
        size = STEP * NUM_STEPS
        self.clips = media(size, seed=1) | questions(size, seed=1)
        for place, row in enumerate(EpochSampler([size], STEP, seed=0)):
            step, within = divmod(place, STEP)
            self.clips["labels"][row, 7 + row % 5 :] = -100
            for name in ("video_chunk_mask", "audio_chunk_mask"):
                self.clips[name][row, 2 + row % 3 :] = False
            if within >= STEP // 2:
                for name in {
                    "sound": ["audio_chunk_mask"],
                    "picture": ["video_chunk_mask"],
                    "chunks": ["video_chunk_mask", "audio_chunk_mask"],
                }.get(LACKING[step], []):
                    self.clips[name][row] = False
                if LACKING[step] == "answers":
                    self.clips["labels"][row] = -100
                if bad_from is not None and step >= bad_from:
                    self.clips["pixel_values_videos"][row] = float("nan")
        for values, mask in (("pixel_values_videos", "video_chunk_mask"), ("input_features", "audio_chunk_mask")):
            self.clips[values][~self.clips[mask]] = 0.0

    def __len__(self) -> int:
        return STEP * NUM_STEPS

    def __getitem__(self, index: int) -> dict:
        return {name: value[index] for name, value in self.clips.items()}

    def row_id(self, index: int) -> str:
        return f"clip_{index}"


def collate(samples: list[dict]) -> dict:
    return with_indices({name: torch.stack([sample[name] for sample in samples]) for name in samples[0]})


def train_tiny(
    output: Path, batch_size: int = STEP, accumulation: int = 1, data: int | None = None, shard: int | None = None,
    optimizer: str = "muon", stop_at: int | None = None, bad_from: int | None = None, save_steps: int = 100,
    **model: dict,
) -> None:  # fmt: skip
    """Trains on 6 steps of 8 clips.

    Args:
        stop_at: Step at which the second process gets SIGTERM.
        bad_from: Step from which on the second half of the clips is not finite.
    """
    recipe = Recipe(
        output=str(output), device="cpu", bf16=False, save_steps=save_steps,
        schedule=ScheduleRecipe(
            pretrain_epochs=1, finetune_epochs=0, batch_size=batch_size, gradient_accumulation_steps=accumulation
        ),
        optimizer=OptimizerRecipe(name=optimizer, learning_rate=3e-3, ema_decay=0.9),
        parallel=ParallelRecipe(data=data, shard=shard),
        validation=ValidationRecipe(every_epochs=1, metric="weights"),
    )  # fmt: skip
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"num_workers": 0})})
    parts = {part: {"num_hidden_layers": 1} for part in PARTS} | {"temporal_config": {"num_hidden_layers": 1, **OFF}}
    parts |= {part: parts[part] | values for part, values in model.items()}
    tiny = tiny_model(attention="eager", **parts)
    steps = 0

    def stop(*_):
        nonlocal steps
        steps += 1
        if steps == stop_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    tiny.register_forward_hook(stop)

    def validate(whole) -> dict[str, float]:
        """A number of steps of generation that differs among the processes, on weights that are whole."""
        clips = media(1, seed=3)
        for _ in range(1 + 2 * int(os.environ.get("RANK", "0"))):
            whole.generate(**clips, decoder_input_ids=torch.tensor([[1, 5, 7]]), max_new_tokens=3, do_sample=False)
        return {"weights": sum(weight.double().abs().sum().item() for weight in whole.parameters())}

    fit(
        recipe, model=tiny, processor=build_tokenizer(["which color is named?"], vocab_size=300),
        train_dataset=TinyClips(bad_from), collator=collate, validate=validate,
    )  # fmt: skip


def refused(output: Path, **options) -> None:
    """Trains, and writes the error that this process ends with."""
    try:
        train_tiny(output, **options)
    except ValueError as error:
        (output / f"error_{os.environ['RANK']}.txt").write_text(str(error))


def free_port() -> int:
    """A port that nothing uses, outside of those that the system gives to others before it is used (32768 and up)."""
    for port in range(10_000 + os.getpid() * 16 % 20_000, 32_000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("Expected a free port below 32000, found none.")


def start(count: int, function: Callable, *arguments, **options) -> list[int]:
    """Call the function in `count` processes that know each other; returns their ids."""
    port = free_port()
    children = []
    for rank in range(count):
        if child := os.fork():
            children.append(child)
            continue
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        if count > 1:
            os.environ |= {name: str(value) for name, value in (about | {"MASTER_PORT": port}).items()}
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        code = 1
        try:
            function(*arguments, **options)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return children


def in_processes(count: int, function: Callable, *arguments, **options) -> None:
    """Call the function in `count` processes that know each other; an error in one is printed, and one raises here."""
    children = start(count, function, *arguments, **options)
    ended: dict[int, int] = {}
    deadline = time.monotonic() + PATIENCE
    while len(ended) < count and time.monotonic() < deadline and not any(ended.values()):
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            ended[child] = status
        else:
            time.sleep(0.02)
    for child in set(children) - set(ended):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if len(ended) < count or any(ended.values()):
        raise RuntimeError(f"of {count} processes, {len(ended)} ended, with {ended}: {arguments} {options}")


def check_shards() -> None:
    """Each of two processes holds half of every weight, but for the single numbers, and gathers them unchanged."""
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    assert joined_processes().gather(dict.fromkeys("abc"[rank::2], rank)) == {"a": 0, "b": 1, "c": 0}
    tiny = tiny_model()
    before = [tensor.detach().clone() for tensor in tensors_of(tiny)]
    empty = skeleton(tiny)
    shard_weights(tiny, Layout(shard=2), torch.device("cpu"))
    for weight, whole in zip(tensors_of(tiny), before, strict=True):
        assert torch.equal(gathered(weight), whole)
        if isinstance(weight, torch.nn.Parameter) and whole.ndim:
            assert local(weight).shape[0] <= -(-whole.shape[0] // 2) and local(weight).shape[1:] == whole.shape[1:]
    assert all(tensor.is_meta for tensor in tensors_of(empty))
    refilled = filled(empty, [gathered(tensor) for tensor in tensors_of(tiny)])
    assert all(torch.equal(mine, whole) for mine, whole in zip(tensors_of(refilled), before, strict=True))


# Its Combiner calls each of its layers once a chunk.
TTM: dict = {"optimizer": "adamw", "combiner_config": {"combiner_type": "ttm"}}
# name: processes, options of `train_tiny`
RUNS: dict[str, tuple[int, dict]] = {
    "one": (1, {}),
    "ddp": (2, {"batch_size": 4, "data": 2}),
    "fsdp": (2, {"batch_size": 4, "shard": 2}),
    "fsdp of 4": (4, {"batch_size": 2, "shard": 4}),
    "hsdp accumulated": (4, {"batch_size": 1, "accumulation": 2, "data": 2, "shard": 2}),
    "one, ttm and adamw": (1, TTM),
    "fsdp accumulated, ttm and adamw": (2, {"batch_size": 2, "accumulation": 2, "shard": 2, **TTM}),
}
RESUMED = {"by 1": (1, {}), "by 4": (4, {"shard": 4})}  # by 2: the run that is killed


def main(folder: Path) -> None:
    names = sys.argv[2:] or [*RUNS, "shards", "not finite", "killed", "resumed"]
    for name in [name for name in names if name in RUNS]:
        count, options = RUNS[name]
        in_processes(count, train_tiny, folder / name, **options)
    if "shards" in names:
        in_processes(2, check_shards)
    if "not finite" in names:
        in_processes(2, refused, folder / "not finite", batch_size=4, shard=2, bad_from=1, save_steps=1)
    if "killed" in names:
        from tests.train.kills import kill_until_done

        (folder / "kills.json").write_text(json.dumps(kill_until_done(folder, 1, "fsdp")))
    if "resumed" in names:
        in_processes(2, train_tiny, folder / "stopped", batch_size=4, shard=2, stop_at=3)
        for name, (count, options) in RESUMED.items():
            shutil.copytree(folder / "stopped", folder / name)
            written = (folder / name / "recipe.yaml").read_text()
            (folder / name / "recipe.yaml").write_text(written.replace(str(folder / "stopped"), str(folder / name)))
            in_processes(count, train_tiny, folder / name, batch_size=4, **options)


def lines_of(run: Path, key: str = "loss") -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
