"""Least CPU seconds that writing one token can take here: the decoder's weights, read once.

    OMP_NUM_THREADS=1 python benchmarks/decode_limit.py

The model is that of `against_mirasol_pytorch.py`. Prints the rate at which one thread reads memory, that of torch's
products of these matrices with one vector, and the milliseconds a token that follow from both.
"""

import time
from collections.abc import Callable

import torch
from against_mirasol_pytorch import OURS

from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration


def seconds(function: Callable[[], object], repeats: int = 12) -> float:
    """CPU seconds of one call: the best of five rounds, after one that is not counted."""
    rounds = []
    for _ in range(6):
        start = time.process_time()
        for _ in range(repeats):
            function()
        rounds.append((time.process_time() - start) / repeats)
    return min(rounds[1:])


@torch.inference_mode()
def main() -> None:
    """Prints both rates and both limits."""
    model = MirasolForConditionalGeneration(MirasolConfig(**OURS)).eval()
    once_a_clip = ("cross_attention.k_proj", "cross_attention.v_proj")
    matrices = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (".decoder.layers" in name or name == "lm_head")
        and not name.endswith(once_a_clip)
    ]
    size = sum(matrix.nbytes for matrix in matrices)
    large = torch.randn(2**26)
    vectors = {width: torch.randn(1, width) for width in {matrix.shape[1] for matrix in matrices}}
    read = large.nbytes / seconds(large.sum)
    products = size / seconds(lambda: [torch.nn.functional.linear(vectors[w.shape[1]], w) for w in matrices])
    print(f"{size / 1e6:.1f} MB of weights a token")
    for name, rate in (("reading memory", read), ("products with one vector", products)):
        print(f"{name:<26} {rate / 1e9:5.1f} GB/s  {1e3 * size / rate:5.2f} ms a token")


if __name__ == "__main__":
    main()
