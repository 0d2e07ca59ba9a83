import os
import platform
import subprocess
import sys

import pytest
import torch
from precision import assert_within_ulps
from reference_stack import normal

from serve_app.model.backends.cpu import windows
from serve_app.model.backends.cpu.windows import WindowLinear


def expected(window, weight, bias, taps, dilation):
    """[B, history + T, C] by [N, taps * C] in float64."""
    span = (taps - 1) * dilation + 1
    columns = window.double().unfold(1, span, 1)[..., ::dilation]  # [B, T, C, taps]
    return columns.transpose(2, 3).flatten(2) @ weight.double().T + bias.double()


CASES = [
    # streams, columns, channels, taps, dilation, outputs
    (1, 1, 512, 1, 1, 40),
    (3, 5, 96, 7, 1, 33),
    (2, 13, 24, 7, 9, 130),
    (1, 64, 48, 2, 1, 64),
    (10, 1, 70, 1, 1, 7),
    (4, 3, 1024, 1, 1, 16),
    (2, 150, 96, 7, 9, 100),  # columns for each thread, in blocks
    (1, 40, 1024, 7, 1, 20),  # a tile in groups of taps
    (3, 70, 520, 2, 1, 530),  # tiles for each thread, several blocks of columns for each
]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_a_product_over_windows_is_that_of_float64(case, threads, monkeypatch):
    streams, columns, channels, taps, dilation, outputs = case
    monkeypatch.setattr(windows, "threads", lambda: threads)
    weight, bias = normal(outputs, taps * channels, size=0.5 * (taps * channels) ** -0.5), normal(outputs, seed=1)
    window = normal(streams, (taps - 1) * dilation + columns, channels, seed=2)
    residual = normal(streams, columns, outputs, seed=3)
    exact = expected(window, weight, bias, taps, dilation)
    product = WindowLinear(weight, bias, taps, dilation)
    assert product(window).shape == (streams, columns, outputs)
    terms = expected(window.abs(), weight.abs(), bias.abs(), taps, dilation)
    assert_within_ulps(product(window), exact, 4, of=terms)
    assert_within_ulps(product(window, residual), exact + residual, 4, of=terms + residual.abs())
    without = WindowLinear(weight, None, taps, dilation)(window)
    assert_within_ulps(without, exact - bias, 4, of=terms)


WINOGRAD_CASES = [
    # streams, columns, channels, dilation, outputs
    (1, 1, 24, 1, 40),
    (3, 4, 96, 1, 33),
    (2, 21, 8, 3, 8),
    (1, 37, 40, 9, 16),  # one column more than a group of units makes
    (3, 160, 130, 9, 130),
    (2, 700, 96, 3, 96),  # units for each thread, in blocks
    (1, 450, 300, 9, 300),  # tiles for each thread, in blocks
]


@pytest.mark.parametrize("case", WINOGRAD_CASES)
def test_a_convolution_of_a_third_of_the_products_is_that_of_float64(case, monkeypatch):
    streams, columns, channels, dilation, outputs = case
    weight, bias = normal(outputs, 7 * channels, size=0.5 * (7 * channels) ** -0.5), normal(outputs, seed=1)
    window = normal(streams, 6 * dilation + columns, channels, seed=2)
    exact = expected(window, weight, bias, 7, dilation)
    product = WindowLinear(weight, bias, 7, dilation, winograd=True)
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(windows, "threads", lambda count=count: count)
        results.append(product(window))
    terms = expected(window.abs(), weight.abs(), bias.abs(), 7, dilation)
    assert_within_ulps(results[0], exact, 16, of=terms)  # sums of what is blended round some three times as much
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    for stream in range(streams):
        assert torch.equal(product(window[stream : stream + 1]), results[0][stream : stream + 1])


def test_a_third_of_the_products_rounds_about_three_times_as_much():
    weight, window = normal(96, 7 * 96, size=0.04), normal(1, 600, 96, seed=2)
    exact = expected(window, weight, torch.zeros(96), 7, 1)
    errors = [
        (WindowLinear(weight, None, 7, winograd=winograd)(window) - exact).square().mean().sqrt()
        for winograd in (False, True)
    ]
    assert errors[1] < 3.5 * errors[0]


def test_a_column_depends_on_its_own_window_to_the_last_bit():
    product = WindowLinear(normal(50, 7 * 40), normal(50, seed=1), taps=7, dilation=3)
    window = normal(3, 18 + 20, 40, seed=2)
    together = product(window)
    for stream in range(3):
        for column in range(20):
            alone = product(window[stream : stream + 1, column : column + 19])
            assert torch.equal(alone[0, 0], together[stream, column])


@pytest.mark.parametrize("case", CASES)
def test_a_product_is_the_same_on_any_number_of_threads_to_the_last_bit(case, monkeypatch):
    streams, columns, channels, taps, dilation, outputs = case
    product = WindowLinear(normal(outputs, taps * channels), normal(outputs, seed=1), taps, dilation)
    window = normal(streams, (taps - 1) * dilation + columns, channels, seed=2)
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(windows, "threads", lambda count=count: count)
        results.append(product(window))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_windows_that_would_be_misread_are_refused():
    product = WindowLinear(normal(50, 7 * 40), None, taps=7)
    with pytest.raises(AssertionError, match="reads float32"):
        product(normal(1, 9, 40).double())
    with pytest.raises(AssertionError, match="another width"):
        product(normal(1, 9, 41))
    with pytest.raises(AssertionError, match="output's shape"):
        product(normal(1, 9, 40), normal(1, 2, 50))
    with pytest.raises(AssertionError, match="does not support a residual"):
        WindowLinear(normal(50, 7 * 40), None, taps=7, winograd=True)(normal(1, 9, 40), normal(1, 3, 50))
    with pytest.raises(AssertionError, match="number of taps"):
        WindowLinear(normal(50, 3 * 40), None, taps=3, winograd=True)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have it")
def test_a_cpu_without_fused_multiply_add_multiplies_and_adds(tmp_path):
    program = (
        "import torch\n"
        "from serve_app.model.backends.cpu import windows\n"
        "weight, x = torch.full((5, 40), 0.5), torch.ones(1, 3, 40)\n"
        "assert windows.WindowLinear(weight, None)(x).eq(20).all()\n"
        "print(windows._MULTIPLY_WINDOWS._compiled._library.get_asm_str())\n"
    )
    plain = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2", "NUMBA_CACHE_DIR": str(tmp_path)}
    made = subprocess.check_output([sys.executable, "-c", program], env={**os.environ, **plain}, text=True)
    assert "mulps" in made
    assert "fma" not in made  # a call of the C library for each number
