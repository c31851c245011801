"""How well surprise tells hard cuts, replaced sound and shifted sound, beside frame difference and spectral flux.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/surprise.py --output FILE.jsonl [--cases 400]
        [--data ../shared/data] [--only grid shift ...] [--checkpoint FOLDER] [--cache cache]

Sequences of 16 chunks (5.12 s) are made of real clips: two GRID sentences, or a stretch of one clip.

cut       from a random moment of chunk 14 on, the picture and sound of another clip
sound     from that moment on, the sound of another clip; of GRID at the same place in its sentence

Each case is compared with the same sequence left alone: AUROC of the larger score of chunks 14 and 15. `surprise` is
that of `StreamSession`, `surprise_z` its z-score over the session so far. `motion` is the largest mean absolute
difference of neighbouring frames in a chunk, `flux` the largest mean rise of the log-mel between neighbouring mel
frames; `_z` is their z-score over the chunks before.

shift     the sound of a GRID film moved by -5 to 5 chunks (Synchformer's protocol: classes of offset, within one class
          counts as right): the alignment with the least mean surprise over 10 chunks among the 11 around a random
          offset. `ridge`: the same by the error of audio features predicted from video features of the same chunk, by
          ridge regression on GRID's train clips.

One line of JSON for each part and set; the same command does what is missing.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirasol.answer.answerer import Answerer
from mirasol.answer.session import MIN_SURPRISES
from mirasol.data import ClipCache
from mirasol.evaluate.runner import load_rows
from mirasol.media import WHOLE, Clip, join_clips
from mirasol.model.modeling_mirasol_temporal import surprise

CHUNKS, CHANGED = 16, 14  # in a sequence, and the first one that may be changed
SHIFTS, SHIFTED_CHUNKS, LEAD = 5, 10, 12  # chunks before the first shifted one: offset and search together
GRID_ROOT = "data/grid_s1"
BATCH = 20
RIDGE, KEPT = 1e3, 48  # strength, and principal components of the audio features that are predicted


@dataclass
class Features:
    """What the model and the baselines have of every chunk."""

    combined: Tensor  # chunk latent dim
    real: Tensor
    motion: np.ndarray  # chunk: largest difference of neighbouring frames, from the chunk before on
    flux: np.ndarray

    def changed(self, later: "Features") -> "Features":
        """Return these with other ones from chunk CHANGED on."""
        values = {}
        for name, value in vars(self).items():
            join = torch.cat if isinstance(value, Tensor) else np.concatenate
            values[name] = join([value[:CHANGED], getattr(later, name)])
        return Features(**values)


class Watcher:
    """A checkpoint's parts, called one by one, because sequences share most of their chunks."""

    def __init__(self, answerer: Answerer):
        self.processor, self.encoder = answerer.processor, answerer.model.get_encoder()
        self.seconds = self.processor.grid.seconds_per_chunk
        self.rate = self.processor.grid.frames_per_second

    def media(self, clip: Clip) -> dict[str, Tensor]:
        """Return the clip's chunks."""
        return self.processor.chunk_clip(clip, sampling="dense", do_resize=False)

    @torch.no_grad()
    def tokens(self, media: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return video and audio tokens of the chunks, and their masks (chunk 2)."""
        masks = torch.stack([media["video_chunk_mask"], media["audio_chunk_mask"]], dim=1)
        video = self.encoder.video_encoder(media["pixel_values_videos"])
        return video, self.encoder.audio_encoder(media["input_features"]), masks

    def features(self, clips: list[Clip], first: int = 0) -> list[Features]:
        """Return the features of the chunks from `first` on of clips of CHUNKS chunks, all encoded at once."""
        found = [self.media(clip) for clip in clips]
        video, audio, masks = self.tokens({name: torch.cat([one[name][first:] for one in found]) for name in found[0]})
        combined = self.combine(video[None], audio[None], masks[None])[0]
        largest = []
        for name, rise in (("pixel_values_videos", False), ("input_features", True)):
            steps = torch.stack([one[name] for one in found]).flatten(1, 2).diff(dim=1)
            steps = (steps.clamp_min(0) if rise else steps.abs()).flatten(2).mean(dim=2)
            each = torch.nn.functional.pad(steps, (1, 0)).unflatten(1, (CHUNKS, -1)).amax(dim=2)
            largest.append(each[:, first:].numpy())
        split = (part.unflatten(0, (len(clips), -1)) for part in (combined, masks.any(dim=1)))
        return [Features(*one) for one in zip(*split, *largest, strict=True)]

    @torch.no_grad()
    def combine(self, video: Tensor, audio: Tensor, masks: Tensor) -> Tensor:
        """Return the Combiner's features of a batch; it reads one chunk at a time."""
        return self.encoder.combiner(video, audio, masks[..., 0], masks[..., 1], None)[0]

    @torch.no_grad()
    def surprise(self, combined: Tensor, real: Tensor) -> np.ndarray:
        """Return the surprise of every chunk of a batch of sequences, NaN for the first."""
        latents, _ = self.encoder.temporal_model(combined, real)
        found = surprise(self.encoder.next_chunk(latents), combined, real, self.encoder.feature_mean).numpy()
        found[:, 0] = np.nan
        return found


def running_z(values: np.ndarray) -> np.ndarray:
    """Return each value in standard deviations from the mean of those before it in its row, NaN ones left out.

    As `StreamSession` counts: NaN until `MIN_SURPRISES` values have come.
    """
    scores = np.full(values.shape, np.nan)
    for place in range(values.shape[1]):
        before = values[:, :place]
        enough = (~np.isnan(before)).sum(axis=1) >= MIN_SURPRISES
        if enough.any():
            spread = np.nanstd(before[enough], axis=1, ddof=1)
            scores[enough, place] = (values[enough, place] - np.nanmean(before[enough], axis=1)) / spread.clip(1e-9)
    return scores


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a positive case scores above a negative one, ties as half."""
    order = np.sort(negative)
    below, through = (np.searchsorted(order, positive, side=side) for side in ("left", "right"))
    return float((below + through).mean() / (2 * len(negative)))


# ---- sequences of real clips


def stretch(clip: Clip, start: float, seconds: float, rate: float) -> Clip:
    """Return these seconds of a clip at `rate` frames a second."""
    frames = times = waveform = None
    if clip.frames is not None:
        times = np.arange(round(seconds * rate)) / rate
        index = np.searchsorted(clip.frame_times, start + times + 2e-3, side="right") - 1
        frames = clip.frames[index.clip(0)]
    if clip.waveform is not None:
        first = round((start - clip.audio_start) * clip.sampling_rate)
        waveform = np.zeros(round(seconds * clip.sampling_rate), np.float32)
        heard = clip.waveform[max(first, 0) : max(first + len(waveform), 0)]
        waveform[max(-first, 0) : max(-first, 0) + len(heard)] = heard[: len(waveform)]
    return Clip(frames, times, waveform, clip.sampling_rate, duration=seconds, crop=WHOLE)


def switched(clip: Clip, other: Clip, moment: float, sound_only: bool) -> Clip:
    """Return the clip with the other's sound, and unless `sound_only` its frames, from `moment` on."""
    changed = {}
    if clip.waveform is not None and other.waveform is not None:
        at = round(moment * clip.sampling_rate)
        changed["waveform"] = np.concatenate([clip.waveform[:at], other.waveform[at:]])
    if not sound_only and clip.frames is not None:
        at = int(np.searchsorted(clip.frame_times, moment))
        changed["frames"] = np.concatenate([clip.frames[:at], other.frames[at:]])
    return replace(clip, **changed)


def grid_pair(clips: list[Clip], rng: np.random.Generator, watcher: Watcher) -> tuple[Clip, Clip]:
    """Return two sequences of two sentences each, the first sentence the same."""
    lead, *seconds = rng.choice(len(clips), 3, replace=False)
    start, length = rng.uniform(0, 0.6), CHUNKS * watcher.seconds
    films = [join_clips([clips[lead], clips[second]], 2.96) for second in seconds]
    return tuple(stretch(film, start, length, watcher.rate) for film in films)


def any_pair(clips: list[Clip], rng: np.random.Generator, watcher: Watcher) -> tuple[Clip, Clip]:
    """Return stretches of two clips."""
    seconds = CHUNKS * watcher.seconds
    chosen = [clips[place] for place in rng.choice(len(clips), 2, replace=False)]
    return tuple(
        stretch(clip, rng.uniform(0, max(clip.duration - seconds, 0)), seconds, watcher.rate) for clip in chosen
    )


def pair_of_tracks(pictures: list[Clip], sounds: list[Clip], rng, watcher: Watcher) -> tuple[Clip, Clip]:
    """Return stretches of two clips, each a picture with an unrelated sound."""
    seen, heard = any_pair(pictures, rng, watcher), any_pair(sounds, rng, watcher)
    return tuple(replace(one, waveform=two.waveform) for one, two in zip(seen, heard, strict=True))


def grid_clips(watcher: Watcher, cache_root: Path, split: str, every: int = 1) -> list[Clip]:
    """Return the decoded sentences of a split, or every so many of them."""
    rows = load_rows("grid", GRID_ROOT, split)[::every]
    processor = watcher.processor
    cache = ClipCache.build(
        rows, cache_root, processor.image_processor, frames_per_second=processor.grid.frames_per_second
    )
    return [cache.clip_of(row) for row in rows]


def files(watcher: Watcher, paths: list[Path], seconds: float, **tracks: bool) -> list[Clip]:
    """Return the whole squares of these files, those of at least so many seconds."""
    clips = []
    for path in paths:
        clip = watcher.processor.read_clip(path, sampling="dense", crop=WHOLE, warn=False, **tracks)
        if clip.duration >= seconds:
            clips.append(clip)
    return clips


# ---- parts


def events(watcher: Watcher, make, parts: list[str], cases: int, seed: int = 0) -> dict[str, dict]:
    """Return for cut and sound the AUROC of every score."""
    rng = np.random.default_rng(seed)
    made: dict[str, list[Features]] = {kind: [] for kind in ("alone", *parts)}
    for _ in range(0, cases, BATCH):
        pairs = [make(rng=rng, watcher=watcher) for _ in range(BATCH)]
        moments = (CHANGED + rng.random(BATCH)) * watcher.seconds
        alone = watcher.features([clip for clip, _ in pairs])
        made["alone"] += alone
        for part in parts:  # chunks before the moment are the same
            clips = [switched(*pair, moment, part == "sound") for pair, moment in zip(pairs, moments, strict=True)]
            later = watcher.features(clips, CHANGED)
            made[part] += [before.changed(after) for before, after in zip(alone, later, strict=True)]
    scores = {}
    for kind, found in made.items():
        values = {name: np.stack([getattr(one, name) for one in found]) for name in ("motion", "flux")}
        combined, real = torch.stack([one.combined for one in found]), torch.stack([one.real for one in found])
        values["surprise"] = watcher.surprise(combined, real)
        values |= {name + "_z": running_z(value) for name, value in values.items()}
        scores[kind] = {name: value[:, CHANGED:].max(axis=1) for name, value in values.items()}
    return {
        part: {"cases": len(made[part])}
        | {name: round(auroc(values, scores["alone"][name]), 4) for name, values in sorted(scores[part].items())}
        for part in parts
    }


def shifts(watcher: Watcher, clips: list[Clip], train: list[Clip], cases: int, seed: int = 0) -> dict:
    """Return how often the alignment of the least error is within one chunk of the true one, by surprise and ridge."""
    rng = np.random.default_rng(seed)
    predict = ridge(watcher, train)
    offsets = np.arange(-2 * SHIFTS, 2 * SHIFTS + 1)
    right = {name: [] for name in ("surprise", "ridge", "surprise_exact", "ridge_exact")}
    for _ in range(cases):
        film = join_clips([clips[place] for place in rng.choice(len(clips), 4, replace=False)], 2.96)
        all_video, all_audio, all_masks = watcher.tokens(watcher.media(film))
        start = int(rng.integers(LEAD, len(all_video) - LEAD - SHIFTED_CHUNKS + 1))
        seen = torch.arange(start, start + SHIFTED_CHUNKS)
        heard = seen + torch.from_numpy(offsets)[:, None]  # alignment chunk
        video, audio = all_video[seen].expand(len(offsets), -1, -1, -1), all_audio[heard]
        masks = torch.stack([all_masks[seen, 0].expand(len(offsets), -1), all_masks[heard, 1]], dim=-1)
        combined = watcher.combine(video, audio, masks)
        errors = {"surprise": np.nanmean(watcher.surprise(combined, masks.any(dim=-1)), axis=1)}
        errors["ridge"] = predict(all_video[seen], audio)
        true = int(rng.integers(-SHIFTS, SHIFTS + 1))  # the sound is late by this; the search undoes -5 to 5
        window = slice(true + SHIFTS, true + 3 * SHIFTS + 1)
        for name, error in errors.items():
            left = int(np.argmin(error[window])) - SHIFTS + true  # chunks that are still wrong
            right[name].append(abs(left) <= 1)
            right[f"{name}_exact"].append(left == 0)
    chance = np.mean([len([s for s in range(-SHIFTS, SHIFTS + 1) if abs(s + t) <= 1]) / 11 for t in range(-5, 6)])
    return {"cases": cases, "chance": round(float(chance), 4)} | {
        name: round(float(np.mean(values)), 4) for name, values in right.items()
    }


def ridge(watcher: Watcher, train: list[Clip]):
    """Return a function from video tokens and aligned audio tokens to the error of a linear prediction."""
    inputs, targets = [], []
    for first in range(0, len(train), BATCH):
        found = [watcher.media(clip) for clip in train[first : first + BATCH]]
        whole = {name: torch.cat([one[name][:9] for one in found]) for name in found[0]}  # chunks within the clip
        video, audio, _ = watcher.tokens(whole)
        inputs.append(video.flatten(1))
        targets.append(audio.flatten(1))
    x, y = torch.cat(inputs).double(), torch.cat(targets).double()
    x_mean, y_mean, x_std = x.mean(dim=0), y.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    directions = torch.linalg.eigh((y - y_mean).T @ (y - y_mean)).eigenvectors[:, -KEPT:]
    x, y = (x - x_mean) / x_std, (y - y_mean) @ directions
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    scale = (y - x @ weights).std(dim=0)

    def error(video: Tensor, audio: Tensor) -> np.ndarray:
        expected = ((video.flatten(1).double() - x_mean) / x_std) @ weights
        actual = (audio.flatten(2).double() - y_mean) @ directions
        return ((actual - expected) / scale).square().mean(dim=(1, 2)).numpy()

    return error


def main() -> None:
    """Do the parts that the output lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--train-clips", type=int, default=240)
    parser.add_argument("--only", nargs="*", default=["grid", "shift", "clips", "drone+esc10", "drone", "esc10"])
    arguments = parser.parse_args()
    watcher, seconds = Watcher(Answerer.load(arguments.checkpoint).streaming), CHUNKS * 0.32
    done = set()
    if arguments.output.is_file():
        done = {json.loads(line)["set"] for line in arguments.output.read_text().splitlines()}

    def sound_files() -> list[Clip]:
        return files(watcher, sorted((arguments.data / "esc10").rglob("*.ogg"))[:120], 4.9, use_video=False)

    def drones() -> list[Clip]:
        paths = sorted((arguments.data / "drone_cc0" / "video").rglob("*.mp4"))
        return files(watcher, paths[:: max(len(paths) // 60, 1)], seconds, use_audio=False)

    def make(name: str):
        if name == "grid":
            clips = [clip for split in ("val", "test") for clip in grid_clips(watcher, arguments.cache, split)]
            return partial(grid_pair, clips), ["cut", "sound"]
        if name == "clips":
            paths = sorted(path for end in ("mp4", "webm") for path in (arguments.data / "clips").rglob(f"*.{end}"))
            clips = [clip for clip in files(watcher, paths, seconds) if clip.frames is not None]
            return partial(any_pair, [clip for clip in clips if clip.waveform is not None]), ["cut", "sound"]
        if name == "drone":
            return partial(any_pair, drones()), ["cut"]
        if name == "esc10":
            return partial(any_pair, sound_files()), ["cut"]
        return partial(pair_of_tracks, drones(), sound_files()), ["sound"]

    for name in arguments.only:
        if name in done:
            continue
        begin = time.process_time()
        if name == "shift":
            test = [clip for split in ("val", "test") for clip in grid_clips(watcher, arguments.cache, split)]
            train = grid_clips(watcher, arguments.cache, "train", every=720 // arguments.train_clips)
            found = {"shift": shifts(watcher, test, train, arguments.cases)}
        else:
            pairs, parts = make(name)
            found = events(watcher, pairs, parts, arguments.cases)
        line = json.dumps({"set": name, "cpu_seconds": round(time.process_time() - begin), **found})
        print(line, flush=True)
        with arguments.output.open("a") as output:
            output.write(line + "\n")


if __name__ == "__main__":
    main()
