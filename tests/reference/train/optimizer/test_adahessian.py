"""AdaHessian against steps worked by hand in numpy, and its estimate against known Hessians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.train.optimizer.adahessian import AdaHessian, hessian_diagonal, spatial_average

H = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, -2.0], [0.0, -2.0, 10.0]])
B = np.array([1.0, -2.0, 0.5])
START = np.array([1.0, -2.0, 3.0])
STEPS = 4


def by_torch(method: AdaHessian) -> np.ndarray:
    """Steps down w' H w / 2 - B w."""
    torch.manual_seed(7)
    w = torch.nn.Parameter(torch.tensor(START))
    optimizer = method.build([{"params": [w], "name": "model", "lr_scale": 1.0}])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = w @ torch.tensor(H) @ w / 2 - torch.tensor(B) @ w
        loss.backward(create_graph=True)
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    return w.detach().numpy()


def by_hand(lr: float, beta1: float, beta2: float, eps: float, decay: float, power: float) -> np.ndarray:
    signs = torch.Generator().manual_seed(7)
    w, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t in range(1, STEPS + 1):
        z = torch.randint(2, (3,), generator=signs).numpy() * 2.0 - 1
        g, d = H @ w - B, z * (H @ z)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * d**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - lr * (m_hat / (np.sqrt(v_hat) ** power + eps) + decay * w)
    return w


def test_defaults():
    np.testing.assert_allclose(by_torch(AdaHessian()), by_hand(0.15, 0.9, 0.999, 1e-4, 0.0, 1.0), rtol=1e-10)


def test_all_fields_take_effect():
    method = AdaHessian(lr=0.1, beta1=0.7, beta2=0.8, eps=1e-2, weight_decay=0.5, hessian_power=0.5)
    expected = by_hand(0.1, 0.7, 0.8, 1e-2, 0.5, 0.5)
    np.testing.assert_allclose(by_torch(method), expected, rtol=1e-10)
    for other in ((0.8, 0.7, 1e-2, 0.5, 0.5), (0.7, 0.8, 1e-4, 0.5, 0.5), (0.7, 0.8, 1e-2, 0.5, 1.0)):
        assert not np.allclose(by_hand(0.1, *other), expected, rtol=1e-3)


def test_the_estimate_is_exact_for_a_diagonal_hessian_and_right_on_average_for_any():
    w = torch.tensor(START, requires_grad=True)
    signs = torch.Generator().manual_seed(0)
    (gradient,) = torch.autograd.grad((w**4).sum(), w, create_graph=True)
    z = torch.randint(2, (3,), generator=signs) * 2.0 - 1
    torch.testing.assert_close(hessian_diagonal([w], [gradient], [z.double()])[0], 12 * w.detach() ** 2)
    total = np.zeros(3)
    for _ in range(4000):
        (gradient,) = torch.autograd.grad(w @ torch.tensor(H) @ w / 2, w, create_graph=True)
        z = torch.randint(2, (3,), generator=signs) * 2.0 - 1
        total += hessian_diagonal([w], [gradient], [z.double()])[0].numpy() / 4000
    np.testing.assert_allclose(total, np.diag(H), atol=5 * 2.3 / np.sqrt(4000))


def test_signs_of_other_parameters_count():
    """The product is with the whole Hessian: its blocks between parameters add noise, as in the paper."""
    a, b = (torch.tensor([2.0], requires_grad=True) for _ in "ab")
    grads = torch.autograd.grad((a**2 + 3 * a * b).sum(), [a, b], create_graph=True)
    found = hessian_diagonal([a, b], grads, [torch.ones(1), -torch.ones(1)])
    assert [float(d) for d in found] == [2.0 - 3.0, -3.0]


def test_parameters_without_curvature():
    a, b = (torch.tensor([2.0], requires_grad=True) for _ in "ab")
    grads = torch.autograd.grad((a**2 + b).sum(), [a, b], create_graph=True)
    assert [float(d) for d in hessian_diagonal([a, b], grads, [torch.ones(1)] * 2)] == [2.0, 0.0]
    grads = torch.autograd.grad((a + b).sum(), [a, b], create_graph=True)
    assert [float(d) for d in hessian_diagonal([a, b], grads, [torch.ones(1)] * 2)] == [0.0, 0.0]


@pytest.mark.parametrize("spatial", [True, False])
def test_kernels_of_a_convolution_share_their_mean(spatial):
    torch.manual_seed(3)
    w = torch.nn.Parameter(torch.randn(2, 3, 2, 2, dtype=torch.float64))
    curvature = torch.rand(2, 3, 2, 2, dtype=torch.float64) + 0.1
    optimizer = AdaHessian(lr=0.1, eps=1e-12, spatial=spatial).build([{"params": [w], "name": "model"}])
    before = w.detach().numpy().copy()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (curvature * w**2).sum() / 2
        loss.backward(create_graph=True)
        return loss

    optimizer.step(closure)
    c = curvature.numpy()
    d = np.stack([[np.full((2, 2), kernel.mean()) for kernel in out] for out in c]) if spatial else c
    np.testing.assert_allclose(w.detach().numpy(), before - 0.1 * c * before / d, rtol=1e-8)
    assert torch.equal(spatial_average(torch.ones(2, 2)), torch.ones(2, 2))


def test_the_seed_decides_the_signs_and_the_state_continues_them():
    first = by_torch(AdaHessian())
    assert np.array_equal(first, by_torch(AdaHessian()))
    torch.manual_seed(1)
    one = AdaHessian().build([{"params": [torch.nn.Parameter(torch.ones(1))]}])
    torch.randint(2, (5,), generator=one.rng)
    torch.manual_seed(2)
    two = AdaHessian().build([{"params": [torch.nn.Parameter(torch.ones(1))]}])
    two.load_state_dict(one.state_dict())
    assert torch.equal(torch.rand(3, generator=one.rng), torch.rand(3, generator=two.rng))
