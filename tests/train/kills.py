"""Kills runs of two processes at random moments, and lets them end.

`python -m tests.train.kills FOLDER [KILLS [LAYOUT [SEED]]]`

Its final weights, averages, optimizer state and losses must be those of an uninterrupted run, bit for bit.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from mirasol.train.record import find_checkpoints
from tests.train.ranks import NUM_STEPS, lines_of, start, train_tiny
from tests.train.toy import saved_state

LAYOUTS = {"fsdp": {"shard": 2}, "ddp": {"data": 2}}


def kill_until_done(folder: Path, kills: int, layout: str, seed: int = 0) -> dict:
    """Return how often the run was killed, and where; afterwards it has ended like the uninterrupted one."""
    options = LAYOUTS[layout] | {"batch_size": 4, "save_steps": 1}
    began = time.monotonic()
    assert all(end == 0 for end in wait(start(2, train_tiny, folder / "whole", **options)))
    duration, chance = time.monotonic() - began, random.Random(seed)
    done, ended, steps, runs = 0, False, [], 1
    run = folder / "killed"
    while not ended or done < kills:
        if ended:  # before enough kills: the same again, in a new folder
            compare(folder / "whole", run)
            run, runs = folder / f"killed_{runs}", runs + 1
        children = start(2, train_tiny, run, **options)
        if done < kills:
            time.sleep(chance.uniform(0, 1.2 * duration))
            is_alive = [os.waitpid(child, os.WNOHANG) == (0, 0) for child in children]
            if all(is_alive):
                os.kill(chance.choice(children), signal.SIGKILL)
                time.sleep(0.05)
                for child in children:  # as torchrun does with the remaining ones
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                done += 1
                found = find_checkpoints(run / "checkpoints")
                steps.append(int(found[-1].name.split("-")[1]) if found else 0)
                sys.stdout.write(f"kill {done} of {kills}: newest checkpoint of step {steps[-1]}\n")
                sys.stdout.flush()
                ended = False
                continue
            for child, alive in zip(children, is_alive, strict=True):
                if alive:
                    os.waitpid(child, 0)
        else:
            assert all(end == 0 for end in wait(children))
        ended = len(lines_of(run)) == NUM_STEPS and (run / "best").is_dir()
        assert ended, "a run that was not killed ended early"
    compare(folder / "whole", run)
    return {"kills": done, "runs": runs, "layout": layout, "seed": seed, "newest_checkpoint_at_kill": steps}


def wait(children: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in children]


def compare(whole: Path, run: Path) -> None:
    """Raises unless losses and the last checkpoint's tensors are equal bit for bit."""
    names = ("step", "loss", "text_loss", "latent_loss", "video_loss", "audio_loss", "grad_norm", "learning_rate")
    expected, found = ([[line[name] for name in names] for line in lines_of(each)] for each in (whole, run))
    assert found == expected, (found, expected)
    tensors, ours = (saved_state(find_checkpoints(each / "checkpoints")[-1]) for each in (whole, run))
    assert tensors.keys() == ours.keys()
    differing = [name for name, tensor in tensors.items() if not torch.equal(tensor, ours[name])]
    assert not differing, differing
    assert (run / "best" / "model.safetensors").read_bytes() == (whole / "best" / "model.safetensors").read_bytes()


if __name__ == "__main__":
    _, folder, *more = sys.argv
    kills, layout, seed, *_ = [*more, *("50", "fsdp", "0")[len(more) :]]
    found = kill_until_done(Path(folder), int(kills), layout, int(seed))
    sys.stdout.write(json.dumps(found) + "\n")
