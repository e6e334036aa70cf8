"""Depthwise convolution with large kernels and its gradients, beside `F.conv2d` in both layouts and an FFT.

On a CPU one thread by default; medians of calls timed in turn. "best stock" is the faster layout of `F.conv2d`. The FFT
is `smpconv.depthwise_conv2d(..., algorithm="fft")`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

import smpconv
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"

# N, C, H = W, K: the stages of the authors' image networks, SLaK's kernel, and an ordinary one.
CASES = [
    (1, 96, 56, 31),
    (1, 192, 28, 29),
    (1, 384, 14, 27),
    (1, 768, 7, 13),
    (1, 96, 56, 51),
    (1, 96, 56, 7),
    (8, 96, 56, 31),
]
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def valid(n: int, c: int, side: int, k: int) -> int:
    """Multiply-adds with pixels of the image."""
    taps = sum(min(side, i + k // 2 + 1) - max(0, i - k // 2) for i in range(side))
    return n * c * taps * taps


def measure(n: int, c: int, side: int, k: int, seconds: float, device: str) -> dict:
    weight = torch.randn(c, k, k, device=device, requires_grad=True)
    calls = {}

    def inference(convolve, x):
        def step() -> None:
            with torch.no_grad():
                convolve(x)

        return step

    def training(convolve, x, grad):
        def step() -> None:
            torch.autograd.grad(convolve(x), (x, weight), grad)

        return step

    for layout, memory_format in LAYOUTS.items():
        x = torch.randn(n, c, side, side, device=device).contiguous(memory_format=memory_format).requires_grad_()
        grad = torch.randn_like(x)
        routes = {
            "stock": lambda x: F.conv2d(x, weight[:, None], padding=k // 2, groups=c),
            "ours": lambda x: smpconv.depthwise_conv2d(x, weight, algorithm="direct"),
        }
        if layout == "NCHW":
            routes["fft"] = lambda x: smpconv.depthwise_conv2d(x, weight, algorithm="fft")
        for name, convolve in routes.items():
            torch.testing.assert_close(convolve(x), routes["ours"](x), rtol=1e-3, atol=1e-3)
            calls[f"{name} {layout} inference"] = inference(convolve, x)
            calls[f"{name} {layout} training"] = training(convolve, x, grad)
    times = {name: summary(values) for name, values in interleave(calls, device, seconds, least=3).items()}
    ratios = {}
    for phase in ("inference", "training"):
        best = min(times[f"stock {layout} {phase}"]["ms"] for layout in LAYOUTS)
        for layout in LAYOUTS:
            ours = times[f"ours {layout} {phase}"]["ms"]
            ratios[f"{layout} {phase}, best stock / ours"] = best / ours
            ratios[f"{layout} {phase}, stock / ours"] = times[f"stock {layout} {phase}"]["ms"] / ours
        ratios[f"{phase}, fft / ours"] = times[f"fft NCHW {phase}"]["ms"] / times[f"ours NCHW {phase}"]["ms"]
    rate = valid(n, c, side, k) / times["ours NCHW inference"]["ms"] / 1e6
    return {"N": n, "C": c, "side": side, "K": k, "ours_GMAC_per_s": rate, "ratios": ratios, "times": times}


def rows(r: dict) -> str:
    t, out = r["times"], []
    for phase in ("inference", "training"):
        stock, ours = ([t[f"{name} {place} {phase}"]["ms"] for place in LAYOUTS] for name in ("stock", "ours"))
        out.append(
            f"{r['N']}x{r['C']}x{r['side']}x{r['side']} K{r['K']:<3} {phase:9} stock {stock[0]:8.2f} / {stock[1]:8.2f} "
            f"fft {t[f'fft NCHW {phase}']['ms']:7.2f}  ours {ours[0]:7.2f} / {ours[1]:7.2f} ms  (NCHW / NHWC)  "
            f"best stock {min(stock) / max(ours):6.1f}x, contiguous {stock[0] / ours[0]:6.1f}x"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 1, fewer repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    results = []
    for case in CASES:
        if args.quick and case[0] > 1:
            continue
        results.append(measure(*case, 0.1 if args.quick else 1.0, args.device))
        print(rows(results[-1]), flush=True)
    path = args.json or RESULTS / f"depthwise_conv2d_{args.device}.json"
    write(path, {"environment": environment(args, smpconv.backend_info()), "results": results})


if __name__ == "__main__":
    main()
