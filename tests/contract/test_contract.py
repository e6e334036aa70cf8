"""The contract: what every op of every package must pass, on every device, backend and CPU level."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from contract import LAYOUTS, Op, assert_close, convert, integers, lies_channels_last, normal, with_gradients
from torch import Tensor
from torch.autograd import forward_ad

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def upstream(draw, layout=LAYOUTS["contiguous"]):
    """Gradient of an output: the same numbers for every dtype and device."""
    return lambda out: layout(draw(*out.shape).to(out.device, out.dtype))


@functools.cache
def samples_and_results(
    op: Op, dtype: torch.dtype, draw: Callable[..., Callable]
) -> dict[str, tuple[dict, dict[str, Tensor]]]:
    """Samples rounded to `dtype`, with output and gradients of the reference in float64 for just these, on the CPU."""
    pairs = {}
    for name, sample in op.samples(draw()).items():
        inputs = convert(sample, "cpu", dtype)
        wide = {
            key: value.double() if key in op.differentiable and value is not None else value
            for key, value in inputs.items()
        }
        grad = draw(1)
        pairs[name] = (
            inputs,
            with_gradients(op, op.reference, wide, lambda out, grad=grad: grad(*out.shape).to(dtype).double()),
        )
    return pairs


@by_dtype
def test_integers_agree_to_the_bit(op, place, dtype):
    exact = {n: pair for n, pair in samples_and_results(op, dtype, integers).items() if op.exact(pair[0])}
    if not exact:
        pytest.skip("not a sum of products")
    for name, (inputs, expected) in exact.items():
        actual = with_gradients(op, op.function, convert(inputs, place, dtype), upstream(integers(1)))
        for part, wanted in expected.items():
            assert actual[part].dtype == dtype
            assert torch.equal(actual[part].cpu(), wanted.to(dtype)), f"{part} of {name}"


@by_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_reference_in_every_layout(op, place, dtype, layout):
    for name, (inputs, expected) in samples_and_results(op, dtype, normal).items():
        inputs = convert(inputs, place, dtype)
        image = op.differentiable[0]
        inputs[image] = LAYOUTS[layout](inputs[image])
        actual = with_gradients(op, op.function, inputs, upstream(normal(1), LAYOUTS[layout]))
        assert_close(actual, expected, lambda part: op.tolerance(part, dtype), of=name)


def test_channels_last_in_channels_last_out(op, place):
    if not op.image:
        pytest.skip("draws kernels, which are contiguous")
    for name, sample in op.samples(normal()).items():
        inputs = convert(sample, place, torch.float32)
        image = op.differentiable[0]
        if inputs[image].shape[1] == 1 or inputs[image].numel() == 0:
            continue
        given = {**inputs, image: LAYOUTS["channels_last"](inputs[image])}
        if given[image].is_contiguous():  # a single pixel is both
            continue
        out = with_gradients(op, op.function, given, upstream(normal(1)))
        for part in ("out", f"grad_{image}"):
            assert lies_channels_last(out[part]), f"{part} of {name}"
        plain = with_gradients(op, op.function, inputs, upstream(normal(1), LAYOUTS["channels_last"]))
        for part in ("out", f"grad_{image}"):
            assert plain[part].is_contiguous(), f"{part} of {name}"


def test_numerical_gradients_of_first_and_second_order(op, place):
    for sample in op.tiny(normal()).values():
        inputs = convert(sample, place, torch.float64)
        names = [name for name in op.differentiable if inputs.get(name) is not None]
        leaves = [inputs[name].requires_grad_() for name in names]

        def function(*tensors, inputs=inputs, names=names):
            return op.function(**{**inputs, **dict(zip(names, tensors))})

        assert torch.autograd.gradcheck(function, leaves)
        if not op.once:
            assert torch.autograd.gradgradcheck(function, leaves)
            continue
        first = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
        with pytest.raises(NotImplementedError, match=f"{op.package.__name__}.* has no second derivative: "):
            torch.autograd.grad(sum(grad.sum() for grad in first), leaves)


def test_gradients_are_computed_for_each_argument_alone(op, place):
    inputs = convert(next(iter(op.samples(normal()).values())), place, torch.float64)
    everything = with_gradients(op, op.function, inputs, upstream(normal(1)))
    for name in op.differentiable:
        leaf = inputs[name].clone().requires_grad_()
        out = op.function(**{**inputs, name: leaf})
        (grad,) = torch.autograd.grad(out, leaf, upstream(normal(1))(out))
        torch.testing.assert_close(grad, everything[f"grad_{name}"])


def test_deterministic_to_the_bit(op, place):
    for name, sample in op.samples(normal()).items():
        inputs = convert(sample, place, torch.float32)
        runs = [with_gradients(op, op.function, inputs, upstream(normal(1))) for _ in range(3)]
        for run in runs[1:]:
            assert all(torch.equal(run[part], runs[0][part]) for part in run), name


def test_same_bits_for_any_number_of_threads(op, place, request):
    if place != "cpu" or op.package.backend_info()["active_cpu"] != "native" or not op.thread_independent:
        pytest.skip("promised by native CPU kernels only")
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    runs = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        runs.append(
            {
                name: with_gradients(op, op.function, convert(sample, place, torch.float32), upstream(normal(1)))
                for name, sample in op.samples(normal()).items()
            }
        )
    for run in runs[1:]:
        for name, tensors in run.items():
            assert all(torch.equal(tensor, runs[0][name][part]) for part, tensor in tensors.items()), name


def test_inputs_stay_as_they_are(op, device):
    for sample in op.samples(normal()).values():
        inputs = convert(sample, device, torch.float32)
        before = copy.deepcopy(inputs)
        with_gradients(op, op.function, inputs, upstream(normal(1)))
        for name, value in before.items():
            assert not isinstance(value, Tensor) or torch.equal(value, inputs[name])


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=("bfloat16", "float16"))
def test_autocast_runs_in_its_dtype_and_gives_gradients_in_the_parameters(op, device, dtype):
    inputs = convert(next(iter(op.samples(normal()).values())), device, torch.float32)
    with torch.autocast(device, dtype):
        actual = with_gradients(op, op.function, inputs, upstream(normal(1)))
    assert actual["out"].dtype == (dtype if op.autocast else torch.float32)
    if not op.autocast:
        assert torch.equal(actual["out"], op.function(**inputs))
        return
    assert all(actual[f"grad_{name}"].dtype == torch.float32 for name in op.differentiable)
    low = convert(inputs, device, dtype) | {name: inputs[name].to(dtype) for name in op.differentiable}
    assert torch.equal(actual["out"], op.function(**low))
    double = {**inputs, **{name: inputs[name].double() for name in op.differentiable}}
    with torch.autocast(device, dtype):  # as in torch's own layers, float64 is left alone
        assert op.function(**double).dtype == torch.float64
        mixed = {**inputs, op.differentiable[0]: inputs[op.differentiable[0]].to(dtype)}
        assert op.function(**mixed).dtype == dtype


def test_opcheck(op, device):
    namespace = getattr(torch.ops, op.package.__name__)
    for name, args in op.ops(normal()).items():
        args = tuple(arg.to(device) if isinstance(arg, Tensor) else arg for arg in args)
        floating = [arg.clone().requires_grad_() if _floating(arg) else arg for arg in args]
        last = [LAYOUTS["channels_last"](arg) if _floating(arg) and arg.dim() > 2 else arg for arg in args]
        for variant in (args, tuple(last)) if name in op.once else (args, tuple(floating), tuple(last)):
            torch.library.opcheck(getattr(namespace, name).default, variant)


def _floating(arg) -> bool:
    return isinstance(arg, Tensor) and arg.is_floating_point()


def test_vmap(op, device):
    sample = convert(next(iter(op.samples(normal()).values())), device, torch.float64)
    for in_dims in op.mapped:
        stacked = {
            name: torch.stack([sample[name], 2 * sample[name] + 1, -sample[name]], dim) for name, dim in in_dims.items()
        }

        def function(**mapped):
            return op.function(**{**sample, **mapped})

        each = [{name: value.select(in_dims[name], i) for name, value in stacked.items()} for i in range(3)]
        mapped = torch.func.vmap(lambda given: function(**given), in_dims=(in_dims,))(stacked)
        torch.testing.assert_close(mapped, torch.stack([function(**one) for one in each]))
        mapped = torch.func.vmap(lambda given: _gradients(op, sample, given), in_dims=(in_dims,))(stacked)
        for name in op.differentiable:
            wanted = torch.stack([_gradients(op, sample, one)[name] for one in each])
            torch.testing.assert_close(mapped[name], wanted)


def _gradients(op: Op, sample: dict, given: dict) -> dict[str, Tensor]:
    inputs = {**sample, **given}
    leaves = {name: inputs[name] for name in op.differentiable}
    return torch.func.grad(lambda leaves: op.function(**{**inputs, **leaves}).sin().sum())(leaves)


def test_forward_mode_is_refused(op, device):
    inputs = convert(next(iter(op.samples(normal()).values())), device, torch.float32)
    name = op.differentiable[0]
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: op.function(**{**inputs, name: x}), (inputs[name],), (inputs[name],))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        op.function(**{**inputs, name: forward_ad.make_dual(inputs[name], inputs[name])})


@pytest.mark.parametrize("dynamic", (False, True), ids=("fixed", "dynamic"))
def test_compiles_into_one_graph(op, device, dynamic):
    torch._dynamo.reset()
    module = op.module().to(device)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (2, 3):
        x = op.module_input(batch).to(device)
        for layout in ("contiguous", "channels_last"):
            image, other = (LAYOUTS[layout](x).requires_grad_() for _ in range(2))
            out, wanted = compiled(image), module(other)
            assert out.stride() == wanted.stride()
            grads = torch.autograd.grad(out.sin().sum(), [image, *compiled.parameters()])
            wanted_grads = torch.autograd.grad(wanted.sin().sum(), [other, *module.parameters()])
            torch.testing.assert_close([out, *grads], [wanted, *wanted_grads])


def test_compiles_with_inductor(op):
    torch._dynamo.reset()
    module, x = op.module(), op.module_input(2).requires_grad_()

    @torch.compile(fullgraph=True)
    def step(x):
        return torch.nn.functional.gelu(module(x)).square().mean()

    grads = torch.autograd.grad(step(x), [x, *module.parameters()])
    wanted = torch.nn.functional.gelu(module(x)).square().mean()
    torch.testing.assert_close(grads, torch.autograd.grad(wanted, [x, *module.parameters()]))


@pytest.mark.parametrize("strict", (False, True), ids=("loose", "strict"))
def test_exports_with_dynamic_batch_and_size(op, device, strict):
    module = op.module().to(device).eval()
    x = op.module_input(2).to(device)
    auto = dict.fromkeys(op.dynamic, torch.export.Dim.DYNAMIC)
    program = torch.export.export(module, (x,), dynamic_shapes=(auto,), strict=strict)
    margins = [margin for dim, pair in ((3, (3, 4)), (2, (1, 0))) if dim < x.dim() for margin in pair]
    larger = op.module_input(5).to(device)
    if set(op.dynamic) > {0}:
        larger = torch.nn.functional.pad(larger, margins)
    for image in (x, larger):
        torch.testing.assert_close(program.module()(image), module(image))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_traced_module_survives_files(op, device):
    module = op.module().to(device)
    x = op.module_input(2).to(device)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, x), file)
    file.seek(0)
    traced = torch.jit.load(file)
    for image in (x, op.module_input(5).to(device)):
        torch.testing.assert_close(traced(image), module(image))


def test_module_survives_copies_and_files(op, device):
    module = op.module().to(device)
    x = op.module_input(2).to(device)
    wanted = module(x)
    assert torch.equal(copy.deepcopy(module)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), wanted)
    other = op.module().to(device)
    for parameter in other.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)  # positive, as a radius must be
    assert not torch.equal(other(x), wanted)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), wanted)


def test_bad_inputs_are_refused_in_one_sentence(op):
    for bad in op.bad_inputs:
        good = convert(op.good(normal()), "cpu", torch.float32)
        op.function(**good)
        with pytest.raises(bad.error) as caught:
            op.function(**bad.change(good))
        text = str(caught.value)
        assert all(word in text for word in bad.says), f"{bad.id}: {text}"
        assert "\n" not in text and text.endswith("."), f"{bad.id}: {text}"
