"""`nuinfer.losses`: all three have their minimum at the log of the weights' ratio, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from nuinfer import losses

NAMES = ["bce", "mlc", "sqrt"]
W1, W0 = (
    torch.tensor([0.2, 1.0, 3.0, 5.0], dtype=torch.float64),
    torch.tensor([1.0, 1.0, 0.5, 0.01], dtype=torch.float64),
)


def formula(name: str, f: np.ndarray, w1: np.ndarray, w0: np.ndarray) -> np.ndarray:
    """The module's docstring, in numpy."""
    if name == "bce":
        return 0.5 * (w1 * np.log(1 + np.exp(-f)) + w0 * np.log(1 + np.exp(f)))
    if name == "mlc":
        return 0.5 * (-w1 * f + w0 * (np.exp(f) - 1))
    return 0.5 * (w1 * np.exp(-f / 2) + w0 * np.exp(f / 2))


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_formula(name: str) -> None:
    f = torch.linspace(-6, 6, 4, dtype=torch.float64)
    found = losses.by_name(name)(f, (W1, W0))
    np.testing.assert_allclose(found, formula(name, f.numpy(), W1.numpy(), W0.numpy()), rtol=1e-12)
    signed = losses.by_name(name)(f, (-W1, W0))
    np.testing.assert_allclose(signed, formula(name, f.numpy(), -W1.numpy(), W0.numpy()), rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_is_the_log_ratio_of_the_weights(name: str) -> None:
    loss, exact = losses.by_name(name), torch.log(W1 / W0)
    f = exact.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(f, (W1, W0)).sum(), f)
    assert slope.abs().max() < 1e-14
    for w1, w0, best in zip(W1, W0, exact, strict=True):
        found = optimize.minimize_scalar(lambda g, w=(w1, w0): float(loss(torch.as_tensor(g), w)), bounds=(-8, 8),
                                         method="bounded", options={"xatol": 1e-8})  # fmt: skip
        assert found.x == pytest.approx(float(best), abs=1e-5)
    # and it is not the minimum for other weights
    (slope,) = torch.autograd.grad(loss(f, (2 * W1, W0)).sum(), f)
    assert slope.abs().min() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences(name: str) -> None:
    loss = losses.by_name(name)
    f = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: loss(g, (W1, -0.3 * W0)), f, eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_with_both_weights_equals_two_classes(name: str) -> None:
    loss, f = losses.by_name(name), torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    zero = torch.zeros_like(W1)
    apart = loss(f, (W1, zero)) + loss(f, (zero, W0))
    torch.testing.assert_close(loss(f, (W1, W0)), apart, rtol=1e-13, atol=1e-13)


def test_cross_entropy_stays_finite_far_out() -> None:
    f = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = losses.bce(f, (torch.ones(2), torch.ones(2)))
    (slope,) = torch.autograd.grad(value.sum(), f)
    assert value.tolist() == [5e3, 5e3]
    assert slope.tolist() == [-0.5, 0.5]


def test_unknown_loss_lists_the_known() -> None:
    with pytest.raises(ValueError, match="loss: expected one of bce, mlc, sqrt, found 'hinge'"):
        losses.by_name("hinge")
