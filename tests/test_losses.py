"""`nuinfer.losses`: each has its minimum at the exact answer, and nowhere else; and what is linear in weights is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

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


# -- with what the simulator knows -------------------------------------------------------------------------------------

LOG_R = torch.tensor([-2.0, 0.3, 1.0, 2.5], dtype=torch.float64)


@pytest.mark.parametrize("loss", [losses.alice, losses.rolr])
def test_gold_losses_are_their_formulas(loss: Any) -> None:
    """1805.12244 eq. 24 (with r(x) = e^f) and 1808.00973 eq. 9, in numpy, up to the factor 1/2 of this library."""
    f = torch.linspace(-2, 2, 4, dtype=torch.float64)
    r, rhat, w1, w0 = (t.numpy() for t in (LOG_R.exp(), f.exp(), W1, W0))
    if loss is losses.rolr:
        exact = w0 * (r - rhat) ** 2 + w1 * (1 / r - 1 / rhat) ** 2
    else:
        s, shat = r / (1 + r), rhat / (1 + rhat)
        exact = -(w1 + w0) * (s * np.log(shat) + (1 - s) * np.log(1 - shat))
    np.testing.assert_allclose(loss(f, (W1, W0, LOG_R)), 0.5 * exact, rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.alice, losses.rolr])
def test_gold_losses_have_their_minimum_at_the_joint_ratio(loss: Any) -> None:
    for f, stays in ((LOG_R, True), (torch.log(W1 / W0), False)):
        at = f.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(at, (W1, W0, LOG_R)).sum(), at)
        assert bool(slope.abs().max() < 1e-13) is stays
    f = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: loss(g, (W1, W0, LOG_R)), f, eps=1e-6, atol=1e-7)


def test_the_mean_of_a_gold_loss_over_z_has_its_minimum_at_the_ratio_of_x() -> None:
    """Two values of z at one x: p1 = (0.3, 0.1), p0 = (0.1, 0.3) + shares; r(x) = sum p1 / sum p0."""
    p1, p0 = torch.tensor([0.6, 0.1], dtype=torch.float64), torch.tensor([0.2, 0.3], dtype=torch.float64)
    joint, exact = torch.log(p1 / p0), float(torch.log(p1.sum() / p0.sum()))
    for loss in (losses.alice, losses.rolr):

        def risk(f: float, loss: Any = loss) -> float:
            return float(loss(torch.full((2,), f, dtype=torch.float64), (p1, p0, joint)).sum())

        found = optimize.minimize_scalar(risk, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
        assert found.x == pytest.approx(exact, abs=1e-6)
        assert abs(exact - float(joint.mean())) > 0.1


def test_scored_adds_the_squared_error_of_the_gradient() -> None:
    scored = losses.Scored(losses.alice, 3, 0.6)
    outputs = torch.randn(1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.randn(2, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = (W1[None], W0[None], LOG_R[None], t[0], t[1])
    exact = losses.alice(outputs[..., 0], weights[:3])
    exact += 0.3 * W1 * ((outputs[..., 1] - t[0]) ** 2 + (outputs[..., 2] - t[1]) ** 2)
    torch.testing.assert_close(scored(outputs, weights), exact)
    assert scored.__name__ == "alice + 0.6 score"


def test_square_and_softmax_have_their_minimum_at_the_exact_answer() -> None:
    t = torch.randn(2, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert float(losses.square(t.permute(1, 2, 0), (W1[None], t[0], t[1])).abs().max()) == 0
    one = losses.square(t[0] + 2.0, (W1[None], t[0]))  # a single output has no axis of its own
    torch.testing.assert_close(one, 2 * W1[None])
    pi, w = (0.2, 0.3, 0.5), torch.tensor([0.4, 1.3, 2.0], dtype=torch.float64)
    loss = losses.Softmax(pi)
    q = w * torch.tensor(pi, dtype=torch.float64)
    weights = tuple(c[None, None] for c in w)
    for z, stays in ((torch.log(q) + 3, True), (torch.log(w), False)):
        at = z[None, None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(at, weights).sum(), at)
        assert bool(slope.abs().max() < 1e-13) is stays
    value = loss((torch.log(q) + 3)[None, None], weights)
    assert float(value) == pytest.approx(-float((q * torch.log(q / q.sum())).sum()), rel=1e-12)
    assert loss.__name__ == "softmax of 0.2, 0.3, 0.5"


def cases() -> dict[str, tuple[Any, Tensor, int, tuple[Tensor, ...]]]:
    """Each loss, its outputs, the number of class weights, and what stands behind them."""
    rng = torch.Generator().manual_seed(4)
    f, t, many = (torch.randn(*shape, dtype=torch.float64, generator=rng) for shape in ((1, 4), (1, 4), (1, 4, 3)))
    two = torch.stack([f, t], -1)
    return {
        **{name: (losses.by_name(name), f, 2, ()) for name in NAMES},
        "alice": (losses.alice, f, 2, (LOG_R[None],)),
        "rolr": (losses.rolr, f, 2, (LOG_R[None],)),
        "scored": (losses.Scored(losses.rolr, 3, 1.0), two, 2, (LOG_R[None], t)),
        "square": (losses.square, f, 1, (t,)),
        "softmax": (losses.Softmax((0.2, 0.3, 0.5)), many, 3, ()),
    }


@pytest.mark.parametrize("name", cases())
def test_every_loss_is_linear_in_the_class_weights(name: str) -> None:
    """So that weight 2 is the event twice, 0 its absence, and opposite weights cancel: of any sign."""
    loss, f, classes, targets = cases()[name]
    rng = torch.Generator().manual_seed(5)
    one, two = (torch.randn(classes, 1, 4, dtype=torch.float64, generator=rng) for _ in range(2))

    def of(weights: Tensor) -> Tensor:
        return torch.as_tensor(loss(f, (*weights, *targets)))

    torch.testing.assert_close(of(one + two), of(one) + of(two), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(of(-2 * one), -2 * of(one), rtol=1e-11, atol=1e-11)
    assert float(of(one).abs().max()) > 1e-3
