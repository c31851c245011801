"""One run on one GPU: are the numbers right, how fast is training, how much fits, and what bounds it.

    python benchmarks/gpu.py --output DIR [--minutes 4.5] [--presets 3b base] [--batches 2 4 8 16 24 32]

Needs torch, transformers, einops and jaxtyping, no decoder. Inputs are random, of the presets' real shapes. A line is
printed for every result as it comes, and DIR/results.json is rewritten, so that a run that is cut short still tells.
Most valuable first; a step that would not end before `--minutes` is left out and named.

Training is that of `mirasol train`: fp32 weights, autocast to bf16, SDPA, loss of `pretrain`, gradient clipping and
fused AdamW with fp32 states. `utilisation` is 3 x the FLOPs of a forward pass (`mirasol info`; recomputation by
checkpointing does not count) over step time and the rate of a large bf16 matrix product, measured first.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import math
import signal
import statistics
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).resolve().parent.parent / "src" / "mirasol"
if "mirasol" not in sys.modules:  # the package without the Auto classes, whose processors need decoders
    sys.modules["mirasol"] = types.ModuleType("mirasol")
    sys.modules["mirasol"].__path__ = [str(SOURCE)]

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration  # noqa: E402
from mirasol.model.presets import preset  # noqa: E402
from mirasol.model.sizes import TEXT_TOKENS, build, measure, num_chunks  # noqa: E402
from mirasol.train.efficiency import compile_layers, recompute_layers  # noqa: E402
from mirasol.train.optimizer import MuonWithAdamW, layer_matrices  # noqa: E402

KERNELS = {  # parts of kernel names, first match counts; names of compiled kernels list all that they fuse
    "compiled elementwise and norms": ("triton_",),
    "attention": ("flash", "fmha", "attention", "cudnn_generated_fort"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "addmm", "::mm", "::bmm", "linear"),
    "optimizer": ("adam", "multi_tensor"),
    "copies": ("memcpy", "memset", "copy", "cat"),
    "elementwise and norms": ("elementwise", "norm", "reduce", "softmax", "index", "gelu", "fill"),
}


class Run:
    """The device, the clock and the results, written after each."""

    def __init__(self, device: str, minutes: float, folder: Path, backend: str | None) -> None:
        self.device, self.backend, self.folder = torch.device(device), backend, folder
        self.ends = time.monotonic() + 60 * minutes
        self.results: dict[str, Any] = {"left_out": []}
        folder.mkdir(parents=True, exist_ok=True)

    def step(self, name: str, expected_seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function(found, *arguments)`, which fills `found`; a failure is recorded and does not end the run."""
        left, start = self.ends - time.monotonic(), time.monotonic()
        found: dict[str, Any] = {}
        result = None
        try:
            if left < expected_seconds:
                raise TimeoutError(f"would take {expected_seconds:.0f} s, {left:.0f} s left")
            result = function(found, *arguments)
        except TimeoutError as error:
            self.results["left_out"].append(name)
            found["left_out"] = str(error)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {str(error)[:500]}"
        found["wall_seconds"] = round(time.monotonic() - start, 2)
        self.results[name] = found
        print(f"[{self.ends - time.monotonic():5.1f} s left] {name}: {json.dumps(found)}", flush=True)
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        self.free()
        return result

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], Any], repeats: int, warmup: int = 1) -> float:
        """Median seconds of a call, the device's work included."""
        for _ in range(warmup):
            function()
        times = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak_gib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device.type == "cuda" else None


def rates(found: dict[str, Any], run: Run) -> None:
    """TFLOP/s of bf16 matrix products, one large and one of ViT-H's MLP; GB/s of a copy (read and written)."""
    size = 8192 if run.device.type == "cuda" else 512

    def product(*shape: int) -> float:
        a, b = (torch.randn(*axes, device=run.device, dtype=torch.bfloat16) for axes in (shape[:2], shape[1:]))
        return round(2 * math.prod(shape) / run.seconds(lambda: a @ b, repeats=20, warmup=3) / 1e12, 3)

    found["matmul_tflops"] = product(size, size, size)
    found["matmul_tflops_of_mlp"] = product(4 * size, 1280, 5120) if run.device.type == "cuda" else None
    block = torch.empty(size * size * 8, device=run.device).normal_()
    target = torch.empty_like(block)
    seconds = run.seconds(lambda: target.copy_(block), repeats=10)
    found["copy_gb_per_second"] = round(2 * block.nbytes / seconds / 1e9, 1)


def inputs(config, batch: int, frames: int, device, dtype=torch.float32, text_tokens: int = TEXT_TOKENS) -> dict:
    """A random batch with picture and sound in every chunk, the second half of the text an answer."""
    chunks, size = num_chunks(config, frames), config.image_size
    generator = torch.Generator(device).manual_seed(0)
    draw = {"generator": generator, "device": device}
    pixels = torch.randn(batch, chunks, config.num_frames_per_chunk, 3, size, size, dtype=dtype, **draw)
    mel = torch.randn(batch, chunks, config.num_mel_frames_per_chunk, config.num_mel_bins, dtype=dtype, **draw)
    ids = torch.randint(3, config.text_config.vocab_size, (batch, text_tokens), **draw)
    labels = ids.roll(-1, dims=1)
    labels[:, : text_tokens // 2] = -100
    start = torch.arange(chunks, device=device).expand(batch, -1) * config.seconds_per_chunk
    every = torch.arange(batch * chunks, device=device)
    real = torch.ones(batch, chunks, dtype=torch.bool, device=device)
    return {
        "pixel_values_videos": pixels,
        "input_features": mel,
        "video_chunk_mask": real,
        "audio_chunk_mask": real,
        "chunk_times": torch.stack([start, start + config.seconds_per_chunk], dim=-1),
        "video_chunk_index": every,
        "audio_chunk_index": every,
        "decoder_input_ids": ids,
        "labels": labels,
    }


def new_model(name: str, device, attention: str = "sdpa", dtype=torch.float32) -> MirasolForConditionalGeneration:
    with torch.device(device):
        model = MirasolForConditionalGeneration._from_config(preset(name), attn_implementation=attention, dtype=dtype)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.cross_attention_gate.fill_(0.5)  # else the logits of new weights do not depend on the clip
    return model


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """|found - expected| / |expected|; NaN stays NaN."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).norm() / expected.norm()).item()


def correctness(found: dict[str, Any], run: Run, name: str, compiled: bool) -> None:
    """Logits and gradients here against the CPU's in fp32: relative errors, and whether each is at most twice naive.

    Naive is plain attention in the same number format on the CPU; in fp32 the bound is 1e-4.
    """
    torch.manual_seed(0)
    reference = new_model(name, "cpu", "eager").eval()
    batch = inputs(reference.config, 2, 4 * reference.config.num_frames_per_chunk, "cpu", text_tokens=32)

    def outcome(model, device, dtype) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        moved = {key: value.to(device) for key, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = model(**moved)
        output.loss.backward()
        names = ("model.encoder.video_encoder.layers.0.mlp.0.weight", "model.decoder.layers.0.gate_proj.weight")
        gradients = torch.cat([model.get_parameter(key).grad.flatten().cpu() for key in names])
        return output.logits.detach(), gradients

    cpu = torch.device("cpu")
    expected = outcome(reference, cpu, torch.float32)
    naive = [relative_error(*pair) for pair in zip(outcome(reference, cpu, torch.bfloat16), expected, strict=True)]
    found["cpu bf16 eager"] = naive
    cases = [("eager", torch.float32), ("sdpa", torch.float32), ("eager", torch.bfloat16), ("sdpa", torch.bfloat16)]
    if importlib.util.find_spec("flash_attn"):
        cases.append(("flash_attention_2", torch.bfloat16))
    for attention, dtype in cases[-1:] if compiled else cases:
        model = new_model(name, run.device, attention).eval()
        model.load_state_dict(reference.state_dict())
        if compiled:
            compile_layers(model, run.backend)
        errors = [relative_error(*pair) for pair in zip(outcome(model, run.device, dtype), expected, strict=True)]
        bounds = [1e-4, 1e-4] if dtype == torch.float32 else [2 * error for error in naive]
        is_right = all(error <= bound for error, bound in zip(errors, bounds, strict=True))
        case = f"{run.device.type} {str(dtype).removeprefix('torch.')} {attention}{' compiled' * compiled}"
        found[case] = [*errors, "ok" if is_right else "WRONG"]


class Training:
    """Steps of one preset on random clips."""

    def __init__(self, run: Run, name: str, frames: int) -> None:
        self.run, self.name, self.frames = run, name, frames
        meta = build(preset(name))
        self.forward_flops, self.kept_bytes = measure(meta, num_chunks(meta.config, frames))
        torch.manual_seed(0)
        self.model = new_model(name, run.device).train()
        self.model.set_objective("pretrain")
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    @classmethod
    def start(cls, found: dict[str, Any], run: Run, name: str, frames: int) -> "Training":
        training = cls(run, name, frames)
        found["parameters"] = sum(p.numel() for p in training.model.parameters())
        found["forward_tflop_per_clip"] = round(training.forward_flops / 1e12, 3)
        found["kept_for_backward_gib_per_clip_in_bf16"] = round(training.kept_bytes / 2**30, 2)
        return training

    def step(self, batch: dict[str, torch.Tensor], marks: list[float] | None = None) -> torch.Tensor:
        """Forward, backward, optimizer; their ends are appended to `marks`."""

        def mark() -> None:
            if marks is not None:
                self.run.wait()
                marks.append(time.perf_counter())

        mark()
        with torch.autocast(self.run.device.type, torch.bfloat16):
            loss = self.model(**batch).loss
        mark()
        loss.backward()
        mark()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark()
        return loss.detach()

    def measure(self, batch_size: int, repeats: int) -> dict[str, Any]:
        """Step time and what follows from it, after one step that does not count."""
        batch = inputs(self.model.config, batch_size, self.frames, self.run.device)
        if self.run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.monotonic()
        loss = self.step(batch)
        self.run.wait()
        first = time.monotonic() - start
        seconds = self.run.seconds(lambda: self.step(batch), repeats, warmup=0)
        marks: list[float] = []
        self.step(batch, marks)
        parts = [round(b - a, 4) for a, b in zip(marks, marks[1:], strict=False)]
        clip_seconds = self.model.config.seconds_per_chunk * num_chunks(self.model.config, self.frames)
        rate = 3 * self.forward_flops * batch_size / seconds / 1e12
        peak = self.run.results.get("rates", {}).get("matmul_tflops")
        return {
            "batch": batch_size,
            "loss": round(loss.item(), 4),
            "step_seconds": round(seconds, 4),
            "forward_backward_optimizer_seconds": parts,
            "model_tflops": round(rate, 1),
            "utilisation": round(rate / peak, 3) if peak else None,
            "media_seconds_per_gpu_second": round(batch_size * clip_seconds / seconds, 1),
            "peak_gib": self.run.peak_gib(),
            "first_step_seconds": round(first, 1),
        }

    def once(self, found: dict[str, Any], batch_size: int) -> None:
        found["best"] = self.measure(batch_size, repeats=5)

    def grow(self, found: dict[str, Any], batches: list[int], repeats: int = 2) -> int:
        """Batches from small to large until one does not fit or improves by less than 2 %; return the best."""
        found["rows"], best = [], {"batch": 0, "model_tflops": 0.0}
        for size in batches:
            try:
                row = self.measure(size, repeats)
            except torch.OutOfMemoryError:
                found["does_not_fit"] = size
                self.optimizer.zero_grad()
                break
            found["rows"].append(row)
            if row["model_tflops"] < 1.02 * best["model_tflops"]:
                best = max(best, row, key=lambda r: r["model_tflops"])
                break
            best = row
        found["best"] = best
        return best["batch"] or batches[0]

    def profile(self, found: dict[str, Any], batch_size: int) -> None:
        """Share of one step's time by kind of kernel, what remains being gaps, and the ten longest kernels."""
        batch = inputs(self.model.config, batch_size, self.frames, self.run.device)
        self.step(batch)
        self.run.wait()
        on_gpu = self.run.device.type == "cuda"
        kinds = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[kinds.CUDA if on_gpu else kinds.CPU]) as profiler:
            start = time.perf_counter()
            self.step(batch)
            self.run.wait()
            wall = time.perf_counter() - start
        sums: dict[str, float] = defaultdict(float)
        kernels = []
        for event in profiler.key_averages():
            seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
            if seconds == 0:
                continue
            name = event.key.lower()
            sums[next((kind for kind, parts in KERNELS.items() if any(p in name for p in parts)), "other")] += seconds
            kernels.append((seconds, event.count, event.key[:90]))
        shares = {kind: round(seconds / wall, 3) for kind, seconds in sorted(sums.items(), key=lambda x: -x[1])}
        found |= {"batch": batch_size, "wall_seconds_profiled": round(wall, 4), "share_of_wall": shares}
        found["gaps"] = round(1 - sum(sums.values()) / wall, 3)
        found["kernels"] = sum(count for _, count, _ in kernels)
        found["longest"] = [
            f"{seconds / wall:.1%} {count}x {name}" for seconds, count, name in sorted(kernels)[:-11:-1]
        ]

    def muon(self, found: dict[str, Any]) -> None:
        """Seconds of one step of Muon for the layers' matrices, AdamW for the rest, in place of AdamW's."""
        names = layer_matrices(self.model)
        named = dict(self.model.named_parameters())
        others = [{"params": [p for name, p in named.items() if name not in names], "weight_decay": 0.0}]
        matrices = [p for name, p in named.items() if name in names]
        self.optimizer = None
        self.run.free()
        for parameter in named.values():
            parameter.grad = torch.randn_like(parameter)
        optimizer = MuonWithAdamW(matrices, others, lr=1e-5, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-8)
        found["optimizer_seconds"] = round(self.run.seconds(optimizer.step, repeats=2), 4)
        found["peak_gib"] = self.run.peak_gib()
        self.model.zero_grad()

    @torch.no_grad()
    def inference(self, found: dict[str, Any], frames: list[int], batches: tuple[int, ...]) -> None:
        """Forward passes in bf16 weights; ends training."""
        self.optimizer = None
        self.model.zero_grad()
        self.model.bfloat16().eval()
        for count in frames:
            for size in batches:
                batch = inputs(self.model.config, size, count, self.run.device, torch.bfloat16)
                del batch["labels"]
                if self.run.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                seconds = self.run.seconds(lambda batch=batch: self.model(**batch, use_cache=False), repeats=3)
                clip_seconds = self.model.config.seconds_per_chunk * num_chunks(self.model.config, count)
                found[f"{count} frames, batch {size}"] = {
                    "seconds": round(seconds, 4),
                    "media_seconds_per_gpu_second": round(size * clip_seconds / seconds, 1),
                    "peak_gib": self.run.peak_gib(),
                }


def train_preset(run: Run, name: str, arguments: argparse.Namespace, every: int | None) -> int:
    """All steps of one preset, compiled with checkpointing (`every` = 1) or without; return the best plain batch."""
    training = run.step(f"{name} build", 5, Training.start, run, name, arguments.frames[0])
    if training is None:
        return 0
    best = {}
    for choice, label in {1: "checkpointing", None: "plain"}.items():
        recompute_layers(training.model, choice)
        best[choice] = run.step(f"{name} {label}", 10, training.grow, arguments.batches) or arguments.batches[0]
    if arguments.compile:
        compiled(run, training, every, best[every])
    if every:
        run.step(f"{name} optimizer muon", 8, training.muon)
    for layer in training.model.modules():
        layer._compiled_call_impl = None
    run.step(f"{name} forward in bf16", 8, training.inference, arguments.frames, (1, 8))
    return best[None]


def compiled(run: Run, training: "Training", every: int | None, batch: int) -> None:
    """One batch size only, because another one is another compilation."""
    label = f"{training.name} {'checkpointing, ' * bool(every)}compiled"
    recompute_layers(training.model, every)
    compile_layers(training.model, run.backend)
    run.step(label, 40, training.once, batch)
    run.step(f"{label}, profile", 8, training.profile, batch)


def machine(found: dict[str, Any], run: Run) -> None:
    found |= {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    if run.device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for results.json")
    parser.add_argument("--minutes", type=float, default=4.5, help="wall time of it all")
    parser.add_argument("--presets", nargs="+", default=["3b", "base"])
    parser.add_argument("--frames", nargs="+", type=int, default=[128, 512], help="training takes the first")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 24, 32])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out all compilation")
    parser.add_argument("--backend", help="of torch.compile; default: inductor")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("Expected a CUDA device, found none. Pass --device cpu --presets nano to try the script.")
    run = Run(arguments.device, arguments.minutes, arguments.output, arguments.backend)

    def stop(*_: Any) -> None:
        raise TimeoutError("the run's time is over")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * arguments.minutes)
    run.step("machine", 0, machine, run)
    run.step("rates", 2, rates, run)
    run.step("correctness", 10, correctness, run, "nano", False)
    first, *others = arguments.presets
    batch = train_preset(run, first, arguments, 1)
    run.free()
    for name in others:
        train_preset(run, name, arguments, None)
        run.free()
    if arguments.compile:
        run.step("correctness, compiled", 30, correctness, run, "nano", True)
        frames = arguments.frames[0]
        if training := run.step(f"{first} build again", 60, Training.start, run, first, frames):
            compiled(run, training, None, batch)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"results: {run.folder / 'results.json'}; left out: {', '.join(run.results['left_out']) or 'nothing'}")


if __name__ == "__main__":
    main()
