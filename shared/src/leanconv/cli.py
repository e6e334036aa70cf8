"""The command ``leanconv``: results on stdout, messages on stderr, exit code 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from leanconv import __version__, environment, models, profiling, training
from leanconv.data import SETS, default_root, load
from leanconv.training import commands as training_commands

INTERRUPTED = 130  # as shells report a program ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    args = _parser().parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt as stop:  # training says how to go on
        sys.stderr.write(f"{str(stop) or 'interrupted'}\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, training.Diverged) as error:
        if args.traceback:
            raise
        sys.stderr.write(f"leanconv: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("leanconv", description="Train, measure and report the networks of this project.")
    parser.add_argument("--version", action="version", version=f"leanconv {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("datasets", help="which data sets are here, and how to get the others")
    command.add_argument("--root", type=Path, help="folder to look in (default: $LEANCONV_DATA or the user's cache)")
    command.add_argument("--get", choices=SETS, metavar="NAME", help="fetch this one into the folder if it is absent")
    command.set_defaults(run=_datasets)

    command = commands.add_parser("models", help="the networks of the installed packages")
    command.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as '*tiny*'")
    command.add_argument("--timm", action="store_true", help="also the networks of timm")
    command.set_defaults(run=_models)

    command = commands.add_parser("bench", help="time networks, each against the first")
    command.add_argument("models", nargs="+", metavar="MODEL", help="a name that `leanconv models` lists")
    command.add_argument("--size", type=_positive, default=224, help="side of the images (default: %(default)s)")
    command.add_argument("--in-chans", type=_positive, default=3, help="channels of the images (default: %(default)s)")
    command.add_argument("--batch", type=_positive, default=1, help="images at a time (default: %(default)s)")
    command.add_argument("--backward", action="store_true", help="time a forward and a backward pass")
    command.add_argument("--channels-last", action="store_true", help="images and weights in channels_last")
    command.add_argument("--device", type=_device, default="cpu", help="cpu (default), cuda, cuda:1, ...")
    command.add_argument("--threads", type=_positive, help="threads of torch on the CPU (default: all cores)")
    command.add_argument("--seconds", type=float, default=2.0, help="how long to measure each (default: %(default)s)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    command.set_defaults(run=_bench)

    training_commands.add(commands)
    return parser


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        torch.empty(0, device=text)
    except (AssertionError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(text)


def _table(rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Aligned columns under the first row; `right` names the columns to align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [">" if title in right.split(",") else "<" for title in rows[0]]
    lines = ("  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _datasets(args: argparse.Namespace) -> int:
    root = (args.root or default_root()).expanduser()
    if args.root and not root.is_dir():
        raise ValueError(f"--root: {root} is not a folder")
    if args.get:
        sys.stdout.write(f"{load(args.get, args.root).source}\n")
        return 0
    rows: list[Sequence[str]] = [("name", "classes", "shape", "train", "test", "where, or how to get it")]
    for entry in SETS.values():
        place = entry.find(root)
        command = f"leanconv datasets --get {entry.name}" + (f" --root {root}" if args.root else "")
        fetch = f"`{command}` (to {', else '.join(entry.fetchers)})"
        get = [fetch, entry.advice] if entry.fetchers else [entry.advice]
        counts = [f"{entry.counts[0]:,}", f"{entry.counts[-1]:,}"] if entry.counts else ["any", "any"]
        where = str(place) if place else f"absent: {' or '.join(get)}"
        rows.append((entry.name, str(entry.num_classes or "any"), entry.shape, *counts, where))
    sys.stdout.write(_table(rows, right="classes,train,test"))
    sys.stderr.write(f"looked in {root}\n")
    return 0


def _models(args: argparse.Namespace) -> int:
    names = models.names(args.pattern, timm_too=args.timm)
    if not names:
        raise ValueError(f"no network's name matches {args.pattern!r}; installed packages may lack the extra [models]")
    width = max(map(len, names))
    for name in names:  # line by line: building all of timm's takes minutes
        with torch.device("meta"):  # counts without allocating
            network = models.build(name)
        params = sum(p.numel() for p in network.parameters())
        sys.stdout.write(f"{name:{width}}  {models.package(name):9}  {params:>13,} parameters\n")
        sys.stdout.flush()
    return 0


def _bench(args: argparse.Namespace) -> int:
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    shape = (args.in_chans, args.size, args.size)
    images = torch.randn(args.batch, *shape, device=args.device).contiguous(memory_format=memory_format)
    rows = [("model", "parameters", "GMACs", "ms", "IQR", "images/s", "x first", "MiB")]
    results = []
    for name in args.models:
        network = models.build(name, in_chans=args.in_chans).to(args.device).to(memory_format=memory_format)
        network.train(args.backward)
        counts = profiling.count(network, shape)

        def call(x: torch.Tensor, network: torch.nn.Module = network) -> None:
            with torch.set_grad_enabled(args.backward):
                out = network(x)
                if args.backward:
                    out.sum().backward()

        call(images)  # so that the gradients' memory is there before peak memory is measured
        timing = profiling.latency(call, images, min_seconds=args.seconds, threads=args.threads)
        peak = profiling.memory(call, images)
        results.append({"model": name, "params": counts.params, "macs": counts.macs, "memory": peak,
                        **dataclasses.asdict(timing)})  # fmt: skip
        ratio = timing.median / results[0]["median"]
        rows.append((name, f"{counts.params:,}", f"{counts.macs / 1e9:.3f}", f"{timing.median * 1e3:.2f}",
                     f"{timing.iqr * 1e3:.2f}", f"{args.batch / timing.median:.1f}", f"{ratio:.2f}",
                     f"{peak / 2**20:.1f}"))  # fmt: skip
    sys.stdout.write(_table(rows, right=",".join(rows[0][1:])))
    what = "forward and backward" if args.backward else "forward"
    layout = "channels_last" if args.channels_last else "contiguous"
    hardware = environment.hardware(args.device) if args.device.type == "cuda" else environment.cpu_name()
    sys.stdout.write(
        f"{what}, batch {args.batch}, {args.in_chans}x{args.size}x{args.size}, {layout}, float32, medians; MiB: peak "
        f"beyond weights and input; {hardware}, threads: {results[0]['threads']}\n"
    )
    if args.json:
        settings = {
            key: str(getattr(args, key)) for key in ("size", "in_chans", "batch", "backward", "channels_last", "device")
        }
        record = {"settings": settings, "results": results, "environment": environment.describe()}
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0
