"""One run of the ablation: train the real model on items made on the device, evaluate, return a row of results.

The loop is lighter than `mirasol train`: clips lie decoded on the device, every chunk is real, answers are one word of
a vocabulary of words (accuracy is that of the most likely next word, which is what greedy generation gives), no
averaged weights, no validation while training. Model, losses, log-mel, padding of text and Muon are the project's own.
"""

import copy
import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from packed import Clips
from questions import CAPTION, TASKS, Item, draw, evaluation_items, tokens, vocabulary
from torch import Tensor

from mirasol.chunks.text import IGNORED_LABEL, pad_text
from mirasol.features.feature_extraction_mirasol import (
    LOOKBACK_SAMPLES,
    MirasolFeatureExtractor,
    mel_power,
)
from mirasol.model import modeling_mirasol_temporal
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.train.optimizer import MuonWithAdamW, layer_matrices

RATE, FRAME_RATE = 16_000, 25
CURRICULUM = {"films": ((0.35, 3), (0.6, 5)), "order": ((0.3, 2),)}  # until this share of the steps, so many segments


@dataclass
class Run:
    """One row and seed of the sweep.

    Args:
        task: Name in questions.TASKS.
        set: Values of `MirasolConfig`, by dotted name.
        steps, batch_size, learning_rate: Of the optimiser.
        warm: Both encoders start as those of the shipped checkpoint; everything else starts fresh.
        modality: "both", "sound" or "picture": the other one is absent.
        direction: "causal", or "both": every chunk reads all chunks (the model then cannot stream).
        frames_per_chunk: Of 25 a second; a chunk is as long as they are.
        num_chunks: Evenly spread over the item; 0 covers it whole.
        train_clips: Leaves only so many labelled training clips; 0 is all.
        pretrain: Steps on captions of all clips at equal weights, in units of `steps`, before the questions.
    """

    name: str
    task: str
    seed: int = 0
    set: dict[str, Any] = field(default_factory=dict)
    steps: int = 800
    batch_size: int = 32
    learning_rate: float = 2e-3
    warm: bool = True
    modality: str = "both"
    direction: str = "causal"
    frames_per_chunk: int = 8
    num_chunks: int = 0
    train_clips: int = 0
    pretrain: float = 0.0


class Bank:
    """All clips on the device: frames and samples in two long rows, and where each clip begins."""

    def __init__(self, sets: dict[str, Clips], device: torch.device):
        self.sets, self.device = sets, device
        frames, sound, self.first_frame, self.first_sample = [], [], {}, {}
        num_frames = num_samples = 0
        for name, clips in sets.items():
            if clips.frames is not None:
                self.first_frame[name] = num_frames + np.arange(len(clips.frames)) * clips.frames.shape[1]
                frames.append(torch.from_numpy(clips.frames).flatten(0, 1).movedim(-1, 1))
                num_frames += len(frames[-1])
            if clips.sound is not None:
                self.first_sample[name] = num_samples + np.arange(len(clips.sound)) * clips.sound.shape[1]
                sound.append(torch.from_numpy(clips.sound).flatten())
                num_samples += len(sound[-1])
        self.frames = torch.cat(frames).contiguous().to(device)
        self.sound = torch.cat(sound).to(device)
        self.words = vocabulary(sets)
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.extractor = MirasolFeatureExtractor()

    def batch(
        self, run: Run, items: list[Item], generator: torch.Generator, noise_db: Tensor | None, jitter: bool
    ) -> dict[str, Tensor]:
        """Return the media inputs of the items."""
        task, per_chunk, device = TASKS[run.task], run.frames_per_chunk, self.device
        seconds, segments = per_chunk / FRAME_RATE, len(items[0].seen)
        whole = segments * task.seconds
        fitting = int(whole / seconds + 1e-6)
        num_chunks = max(1, round(run.num_chunks * segments / task.segments)) if run.num_chunks else fitting
        spare = (whole - num_chunks * seconds) / num_chunks
        starts = (
            np.arange(num_chunks) * (seconds + spare) + spare / 2
            if run.num_chunks
            else np.arange(num_chunks) * seconds
        )
        starts = np.round(starts * FRAME_RATE) / FRAME_RATE
        picture, sound = self.sets[task.picture], self.sets[task.sound]
        inside = max(0.0, picture.frames.shape[1] / picture.frame_rate - task.seconds) / 2  # cut from both ends
        times = (starts[:, None] + np.arange(per_chunk) / FRAME_RATE).flatten() + 1e-6
        segment = np.minimum((times / task.seconds).astype(int), segments - 1)
        local = np.minimum(
            ((times - segment * task.seconds + inside) * picture.frame_rate).astype(int), picture.frames.shape[1] - 1
        )
        seen = self.first_frame[task.picture][np.array([item.seen for item in items])]
        index = torch.from_numpy(seen[:, segment] + local).to(device, non_blocking=True)
        pixels = self.frames[index].float().div_(127.5).sub_(1)
        if jitter:
            down, right = torch.randint(-2, 3, (2,)).tolist()
            pixels = torch.roll(pixels, (down, right), (-2, -1))
            gain = 1 + 0.1 * torch.randn(len(items), 1, 1, 1, 1, device=device, generator=generator)
            pixels = pixels * gain + 0.06 * torch.randn(len(items), 1, 1, 1, 1, device=device, generator=generator)

        inside = round(max(0.0, sound.sound.shape[1] / RATE - task.seconds) / 2 * RATE)
        length = round(task.seconds * RATE)
        heard = self.first_sample[task.sound][np.array([item.heard for item in items])] + inside
        index = torch.from_numpy(heard).to(device, non_blocking=True)[..., None] + torch.arange(length, device=device)
        waveform = self.sound[index].flatten(1)
        if noise_db is not None:
            noise = torch.randn(waveform.shape, device=device, generator=generator)
            power = waveform.square().mean(dim=1, keepdim=True)
            waveform = waveform + noise * (power * 10 ** (-noise_db[:, None] / 10)).sqrt()
        power = mel_power(torch.nn.functional.pad(waveform, (LOOKBACK_SAMPLES, 0)), self.extractor.num_mel_bins)
        columns = np.round(starts * 100).astype(int)[:, None] + np.arange(4 * per_chunk)
        columns = torch.from_numpy(np.minimum(columns, power.shape[1] - 1)).to(device, non_blocking=True)
        features = self.extractor.log_mel(power)[:, columns]
        shape = len(items), num_chunks
        chunk_times = torch.from_numpy(np.stack([starts, starts + seconds], axis=-1)).float().to(device)
        present = {
            name: torch.full(shape, run.modality in ("both", name), device=device) for name in ("picture", "sound")
        }
        return {
            "pixel_values_videos": pixels.unflatten(1, (num_chunks, per_chunk)) * (run.modality != "sound"),
            "input_features": features * (run.modality != "picture"),
            "video_chunk_mask": present["picture"],
            "audio_chunk_mask": present["sound"],
            "chunk_times": chunk_times.expand(len(items), -1, -1),
        }

    def text(self, questions: list[tuple[str, str]]) -> dict[str, Tensor]:
        """Return questions with their answers as token rows: logits[i] predicts labels[i]."""
        rows: dict[str, list[list[int]]] = {"decoder_input_ids": [], "labels": []}
        for question, answer in questions:
            prompt = [1, *tokens(question, self.ids)]
            reply = [self.ids[answer]] if answer in self.ids else tokens(answer, self.ids)
            rows["decoder_input_ids"].append(prompt + reply)
            rows["labels"].append([IGNORED_LABEL] * (len(prompt) - 1) + reply + [2])
        return {name: value.to(self.device, non_blocking=True) for name, value in pad_text(rows, 0).items()}


def build(run: Run, bank: Bank, checkpoint) -> MirasolForConditionalGeneration:
    """Return the model of a run on the device."""
    frames, overrides = run.frames_per_chunk, {}
    settings: dict[str, Any] = {
        "seconds_per_chunk": round(frames / FRAME_RATE, 6),
        "video_config.num_frames": frames,
        "video_config.image_size": 32,
        "audio_config.num_mel_frames": 4 * frames,
        "combiner_config.num_latents": 16,
        "text_config.vocab_size": 256,
        **run.set,
    }
    for name, value in settings.items():
        part, _, key = name.partition(".")
        if key:
            overrides.setdefault(part, {})[key] = value
        else:
            overrides[part] = value
    config = preset("nano", **overrides)
    config.set_objective("finetune")
    for name in ("latent_weight", "video_weight"):
        if name in run.set:
            setattr(config, name, run.set[name])
    torch.manual_seed(run.seed)
    model = MirasolForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    if run.warm:
        from safetensors.torch import load_file

        towers = ("model.encoder.video_encoder.", "model.encoder.audio_encoder.")
        saved = {name: value.float() for name, value in load_file(checkpoint).items() if name.startswith(towers)}
        if different := saved.keys() ^ {name for name in model.state_dict() if name.startswith(towers)}:
            raise ValueError(
                f"{run.name}: with warm=true the encoders must have the weights of {checkpoint}, but these are in one "
                f"of the two only: {sorted(different)[:3]}. Set warm: false."
            )
        model.load_state_dict(saved, strict=False)
    return model.to(bank.device)


def optimizer_of(model, learning_rate: float) -> MuonWithAdamW:
    """Return Muon on the layers' matrices and AdamW on the rest, as the shipped recipes."""
    names = layer_matrices(model)
    trained = list(model.named_parameters())
    return MuonWithAdamW(
        [p for n, p in trained if n in names],
        [{"params": [p for n, p in trained if n not in names], "weight_decay": 0.0}],
        lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98), eps=1e-8,
    )  # fmt: skip


class OutOfTime(Exception):
    """The sweep's time ended within a run."""


def fit(run: Run, model, bank: Bank, steps: int, captions: bool, deadline: float, stage: int) -> float:
    """Train for `steps` with a warm-up and a cosine; return the last loss."""
    task, rng = TASKS[run.task], np.random.default_rng([run.seed, stage])
    generator = torch.Generator(bank.device).manual_seed(1000 * stage + run.seed)
    optimizer = optimizer_of(model, run.learning_rate)
    model.train()
    loss = torch.zeros(())
    for step in range(steps):
        rate = run.learning_rate * min(
            (step + 1) / (0.05 * steps + 1), 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        limit = 0 if captions else run.train_clips
        short = next((count for share, count in CURRICULUM.get(run.task, ()) if step < share * steps), None)
        items = [draw(run.task, bank.sets, rng, False, i, limit, short) for i in range(run.batch_size)]
        noise = None
        if task.noise_db is not None:
            low, high = task.noise_db
            noise = low + (high - low) * torch.rand(len(items), device=bank.device, generator=generator)
            noise += 20 * max(
                0.0, 1 - step / (0.4 * steps)
            )  # clean words first: from scratch they are not learned in noise
        inputs = bank.batch(run, items, generator, noise, jitter=True)
        if captions:
            pairs = [(CAPTION, " ".join(bank.sets["grid"].labels[item.heard[0]])) for item in items]
        else:
            pairs = [(question, answer) for item in items for _, question, answer in item.questions]
        text = bank.text(pairs)
        loss = model(**inputs, **text).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0 and time.time() > deadline:
            raise OutOfTime
    return float(loss.detach())


@torch.no_grad()
def evaluate(run: Run, model, bank: Bank) -> dict[str, Any]:
    """Return the accuracy of each kind, and for each question its kind, its unit and whether it was right."""
    task, items = TASKS[run.task], evaluation_items(run.task, bank.sets)
    generator = torch.Generator(bank.device).manual_seed(12345)
    right: list[bool] = []
    model.eval()
    for first in range(0, len(items), 20):  # the same batches whatever the run, so that the noise is the same
        part = items[first : first + 20]
        noise = (
            None if task.eval_noise_db is None else torch.full((len(part),), task.eval_noise_db, device=bank.device)
        )
        text = bank.text([(question, answer) for item in part for _, question, answer in item.questions])
        labels = text.pop("labels")
        logits = model(**bank.batch(run, part, generator, noise, jitter=False), **text, use_cache=False).logits
        place = labels.ne(IGNORED_LABEL).int().argmax(dim=1, keepdim=True)
        wanted = labels.gather(1, place)[:, 0]
        found = logits.gather(1, place[..., None].expand(-1, -1, logits.shape[-1]))[:, 0].argmax(dim=-1)
        right += found.eq(wanted).tolist()
    kinds = [kind for item in items for kind, *_ in item.questions]
    units = [item.unit for item in items for _ in item.questions]
    names = list(dict.fromkeys(kinds))
    accuracy = {
        name: float(np.mean([r for r, kind in zip(right, kinds, strict=True) if kind == name])) for name in names
    }
    return {
        "accuracy": accuracy,
        "mean": float(np.mean(list(accuracy.values()))),
        "kinds": kinds,
        "units": units,
        "right": "".join("01"[r] for r in right),
    }


@contextmanager
def direction(run: Run):
    """Let each chunk read all chunks where the run asks for it: no option of the library, as it cannot stream."""
    causal = modeling_mirasol_temporal.chunk_causal_mask
    if run.direction == "both":
        modeling_mirasol_temporal.chunk_causal_mask = lambda mask, latents, *_: torch.ones(
            len(mask), 1, mask.shape[1] * latents, mask.shape[1] * latents, dtype=torch.bool, device=mask.device
        )
    try:
        yield
    finally:
        modeling_mirasol_temporal.chunk_causal_mask = causal


def forward_flops(run: Run, config) -> int | None:
    """Return the FLOPs of a forward pass over one item and 16 tokens of text, counted without computing it."""
    from mirasol.model import sizes

    task = TASKS[run.task]
    chunks = run.num_chunks or int(task.segments * task.seconds * FRAME_RATE / run.frames_per_chunk + 1e-6)
    try:
        return sizes.measure(sizes.build(copy.deepcopy(config)), chunks, text_tokens=16)[0]
    except (RuntimeError, NotImplementedError):  # a torch whose meta device lacks an operator: a run is worth more
        return None


def execute(run: Run, bank: Bank, checkpoint, deadline: float = float("inf")) -> dict[str, Any]:
    """Train and evaluate one run."""
    start, on_gpu = time.time(), bank.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()  # other processes share the card
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(run.seed)
    model = build(run, bank, checkpoint)
    with direction(run):
        if run.pretrain:
            weights = {name: getattr(model.config, name) for name in ("text_weight", "latent_weight", "video_weight")}
            model.set_objective("pretrain")
            fit(run, model, bank, round(run.pretrain * run.steps), True, deadline, stage=1)
            for name, value in weights.items():
                setattr(model.config, name, value)
        loss = fit(run, model, bank, run.steps, False, deadline, stage=0)
        result = evaluate(run, model, bank)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "name": run.name,
        "task": run.task,
        "seed": run.seed,
        "steps": run.steps,
        "loss": loss,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": forward_flops(run, model.config) if run.seed == 0 else None,
        "seconds": round(time.time() - start, 1),
        "peak_mib": round(peak / 2**20),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        **result,
    }
