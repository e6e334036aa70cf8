"""Ways to run a network: as it is, compiled, exported, as ONNX; and networks timed in turn, each in one such way."""

from __future__ import annotations

import importlib.util
import logging
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.benchmark import interleave

Run = Callable[[Tensor], Any]

log = logging.getLogger("leanconv")


def compiled(model: nn.Module, x: Tensor, **options: Any) -> Run:
    return torch.compile(model, fullgraph=True, dynamic=False, **options)


def exported(model: nn.Module, x: Tensor) -> Run:
    return torch.export.export(model, (x,)).module()


def onnx(model: nn.Module, x: Tensor) -> Run:
    """onnxruntime with as many threads as torch; ONNX knows contiguous tensors alone."""
    import onnxruntime

    program = torch.onnx.export(model, (x.contiguous(),), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


def step(model: Any) -> Run:
    def forward_and_backward(x: Tensor) -> None:
        model.zero_grad()
        model(x).sum().backward()

    return forward_and_backward


INFERENCE: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "eager": lambda model, x: model,
    "compiled": compiled,
    "graphs": lambda model, x: compiled(model, x, mode="reduce-overhead"),
    "exported": exported,
    "ONNX": onnx,
}
TRAINING: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "training": lambda model, x: step(model),
    "compiled training": lambda model, x: step(compiled(model, x)),
}


def possible(device: str, dtype: str = "float32") -> list[str]:
    """The ways there are on this device: CUDA graphs on a GPU, ONNX on the CPU where onnxruntime is installed."""
    absent = {"graphs": device == "cpu"}
    absent["ONNX"] = device != "cpu" or dtype != "float32" or not importlib.util.find_spec("onnxruntime")
    return [way for way in (*INFERENCE, *TRAINING) if not absent.get(way)]


def settle(model: nn.Module, x: Tensor) -> None:
    """Give the batch norms the statistics of `x`, so that values are as large as in a trained network."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def timed(
    way: str,
    networks: dict[str, nn.Module],
    x: Tensor,
    seconds: float,
    *,
    deploy: Callable[[nn.Module], nn.Module],
    tolerance: float = 1e-3,
    label: str = "",
) -> dict[str, float]:
    """Median milliseconds of each network run in one way, by `leanconv.benchmark.interleave`.

    Args:
        seconds: for each network.
        deploy: makes of a network in evaluation what inference runs, such as a copy with its norms folded.
        tolerance: by how much its result may differ from the network's, of the norm of the latter.
        label: what the log calls the way.

    Raises:
        ArithmeticError: it differs by more.

    Example:
        >>> times = timed("eager", {"one": nn.Linear(8, 8)}, torch.randn(2, 8), 0.01, deploy=lambda model: model)
        >>> times["one"] < 10
        True
    """
    torch.compiler.reset()
    with torch.set_grad_enabled(way in TRAINING):
        functions = {name: _ready(way, model, x, deploy, tolerance) for name, model in networks.items()}
        calls: dict[str, Callable[[], object]] = {name: partial(run, x) for name, run in functions.items()}
        taken = interleave(calls, x.device, seconds)
    medians = {name: 1e3 * statistics.median(each) for name, each in taken.items()}
    log.info(
        "batch %d, %s: %s", len(x), label or way, ", ".join(f"{name} {ms(time)} ms" for name, time in medians.items())
    )
    return medians


def ms(milliseconds: float) -> str:
    """Three digits are enough.

    Example:
        >>> ms(0.12345), ms(12345.6)
        ('0.123', '12346')
    """
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def _ready(way: str, model: nn.Module, x: Tensor, deploy: Callable[[nn.Module], nn.Module], tolerance: float) -> Run:
    if way in TRAINING:
        return TRAINING[way](model.train(), x)
    expected = model.eval()(x).float()
    function = INFERENCE[way](deploy(model), x)
    if not (function(x).float() - expected).norm() <= tolerance * expected.norm():
        raise ArithmeticError(f"{way}: the result differs from that of the plain network")
    return function
