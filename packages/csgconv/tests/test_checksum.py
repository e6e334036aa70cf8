"""The checksum by which kept kernels know that values were written past torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import csgconv
from csgconv import ops, reference
from leanconv.testing.emulator import by_dtype

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.fixture(params=["reference", "native"])
def checksum(request):
    if request.param == "native" and ops.backends.why["cpu"]:
        pytest.skip(ops.backends.why["cpu"])
    with csgconv.use_backend(request.param):
        yield ops.checksum("cpu")


def draw(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def swap(values: Tensor, i: int, j: int) -> None:
    values[[i, j]] = values[[j, i]]


def payload(values: Tensor) -> None:
    values.view(BITS[values.element_size()])[5] ^= 1


def flip_bits(values: Tensor) -> None:
    """The signs of two numbers, which is the highest bit of their words or not."""
    values[[3, 1024 + 3]] *= -1


CHANGES = {
    "one number": lambda values: values[77].add_(1),
    "the last number": lambda values: values[-1].mul_(2),
    "one sign": lambda values: values[7].neg_(),
    "two signs": flip_bits,
    "neighbours change places": lambda values: swap(values, 0, 1),
    "numbers far apart change places": lambda values: swap(values, 8, 1032),
    "all in another order": lambda values: values.copy_(values.flip(0).clone()),
    "all rotated": lambda values: values.copy_(values.roll(512)),
    "the sign of a zero": lambda values: values[4].neg_(),
    "the payload of NaN": payload,
}


@by_dtype()
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(checksum, dtype, change):
    """By bits: a zero that changes its sign is another value, which costs a product and no more."""
    weight, bias = draw(dtype, 1531), draw(dtype, 3)
    weight[4], weight[5] = 0, torch.nan
    before = checksum(weight[:9].clone(), weight, bias)
    assert checksum(weight[:9].clone(), weight.clone(), bias.clone()) == before
    changed = weight.clone()
    CHANGES[change](changed)
    assert checksum(weight[:9].clone(), changed, bias) != before


@by_dtype()
def test_every_bit_counts(checksum, dtype):
    weight = draw(dtype, 131)  # more than a row of 64 words, and an odd rest
    codes, found = weight[:0], set()
    bits = weight.view(BITS[weight.element_size()])
    for number in (0, 1, 63, 64, 127, 128, 130):
        for bit in range(8 * weight.element_size()):
            mask = torch.tensor(1).bitwise_left_shift(bit).to(bits.dtype)
            bits[number] ^= mask
            found.add(checksum(codes, weight, None))
            bits[number] ^= mask
    found.add(checksum(codes, weight, None))
    assert len(found) == 7 * 8 * weight.element_size() + 1


def test_no_two_bits_of_a_column_cancel(checksum):
    """Words that follow one another there stand 64 words apart."""
    weight = draw(torch.float32, 400)
    bits, found = weight.view(torch.int32), {checksum(weight[:0], weight, None)}
    masks = torch.tensor(1).bitwise_left_shift(torch.arange(32)).to(torch.int32)
    for first in range(0, 32, 3):
        for second in range(32):
            bits[100] ^= masks[first]
            bits[164] ^= masks[second]
            found.add(checksum(weight[:0], weight, None))
            bits[100] ^= masks[first]
            bits[164] ^= masks[second]
    assert len(found) == 11 * 32 + 1


@pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_every_instruction_set_gives_the_same(level):
    """A process of its own each, as the level is taken when the library is loaded."""
    program = (
        "import torch, csgconv\n"
        "values = torch.arange(20011, dtype=torch.float32).sin()\n"
        "print(torch.ops.csgconv.checksum(values[:5000], values, None))"
    )
    values = torch.arange(20011, dtype=torch.float32).sin()
    environment = {**os.environ, "CSGCONV_CPU_LEVEL": level}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == reference.checksum(values[:5000], values, None)


def test_where_values_stand_counts(checksum):
    """Zeros at the end, and values that go from one tensor to the next."""
    values = draw(torch.float32, 40)
    sums = {checksum(values[:n], values[n:], None) for n in range(41)}
    sums |= {checksum(values, torch.zeros(n), None) for n in range(1, 5)}
    sums |= {checksum(values, torch.zeros(4), torch.zeros(n)) for n in range(1, 5)}
    assert len(sums) == 41 + 4 + 4


@by_dtype()
@pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
def test_native_is_the_reference(dtype):
    for rows, d, p in ((0, 3, 4), (5, 7, 9), (16, 8, 8), (33, 17, 129), (70, 90, 100)):
        codes, weight, bias = draw(dtype, rows, d), draw(dtype, p, d), draw(dtype, p)
        for given in ((codes, weight, bias), (codes.t().contiguous().t(), weight, None)):
            assert ops.checksum("cpu")(*given) == torch.ops.csgconv.checksum(*given) == reference.checksum(*given)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
def test_other_dtypes_are_refused(which):
    given = [torch.zeros(5), torch.zeros(5), torch.zeros(5)]
    for dtype in (torch.float8_e4m3fn, torch.complex64, torch.uint8):
        given[which] = torch.zeros(5).to(dtype)
        with pytest.raises(RuntimeError, match=f"{('codes', 'weight', 'bias')[which]} must be float32, float64"):
            torch.ops.csgconv.checksum(*given)


def test_the_default_device_does_not_matter(checksum):
    values = draw(torch.float32, 300)
    wanted = checksum(values, values, None)
    with torch.device("meta"):
        assert checksum(values, values, None) == wanted


def test_nothing_is_read_elsewhere():
    """On a GPU one would have to wait for it."""
    values = torch.empty(3, device="meta")
    assert ops.checksum("meta")(values, values, None) == 0
