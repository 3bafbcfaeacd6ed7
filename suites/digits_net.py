"""The network of the workload "digits", trained with numpy alone.

Three 3x3 convolutions, one pooling and one dense layer, small enough that forward,
backward and Adam fit on two pages and need no training framework. Images are float32
[N, 1, 8, 8] scaled to 0..1; logits are float32 [N, 10].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Params = dict[str, Floats]

EPOCHS, BATCH, PEAK_RATE = 60, 32, 3e-3


def new_params(rng: np.random.Generator) -> Params:
    """Draw weights with He's variance (2 / inputs), which suits ReLU; biases start at zero."""
    shapes = {"1": (8, 1, 3, 3), "2": (16, 8, 3, 3), "3": (16, 16, 3, 3), "4": (10, 256)}
    params: Params = {}
    for layer, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        params[f"weight{layer}"] = rng.normal(0, spread, shape).astype(np.float32)
        params[f"bias{layer}"] = np.zeros(shape[0], np.float32)
    return params


def conv(x: Floats, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """Convolve [N, C, H, W] with [K, C, 3, 3] as one matrix product (im2col).

    Returns the output [N, K, H, W] and the columns [N*H*W, C*9], which backward needs.
    """
    count, channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))  # [N, C, H, W, 3, 3]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * 9)
    rows = columns @ weight.reshape(len(weight), -1).T + bias
    return rows.reshape(count, height, width, -1).transpose(0, 3, 1, 2), columns


def conv_backward(grad: Floats, columns: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Gradients of ``conv`` for input, weight and bias, from that of its output.

    At stride 1 and padding 1 the input's gradient is itself a convolution: of the
    output's gradient with the kernels turned by 180 degrees, in and out swapped.
    """
    rows = grad.transpose(0, 2, 3, 1).reshape(-1, len(weight))
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    grad_x, _ = conv(grad, turned, np.zeros(len(turned), np.float32))
    return grad_x, (rows.T @ columns).reshape(weight.shape), rows.sum(axis=0)


def pool(x: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Largest of each 2x2 block of [N, C, H, W], and which pixels of the blocks that was.

    Tied pixels all count as chosen; ties are in practice zeros, where the ReLU before
    the pooling stops the gradient anyway.
    """
    count, channels, height, width = x.shape
    blocks = x.reshape(count, channels, height // 2, 2, width // 2, 2)
    best = blocks.max(axis=(3, 5), keepdims=True)
    return best[:, :, :, 0, :, 0], blocks == best


def gradients(params: Params, x: Floats, labels: Ints) -> Params:
    """Gradient of the mean cross-entropy over images [N, 1, 8, 8], for each parameter."""
    w1, w2, w3, w4 = (params[f"weight{layer}"] for layer in "1234")
    out1, columns1 = conv(x, w1, params["bias1"])
    out2, columns2 = conv(np.maximum(out1, 0), w2, params["bias2"])
    pooled, chosen = pool(np.maximum(out2, 0))
    out3, columns3 = conv(pooled, w3, params["bias3"])
    features = np.maximum(out3, 0).reshape(len(x), -1)
    logits = features @ w4.T + params["bias4"]

    grads: Params = {}
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    grad = odds / odds.sum(axis=1, keepdims=True)
    grad[np.arange(len(x)), labels] -= 1
    grad /= len(x)
    grads["weight4"], grads["bias4"] = grad.T @ features, grad.sum(axis=0)
    grad = (grad @ w4).reshape(out3.shape) * (out3 > 0)
    grad, grads["weight3"], grads["bias3"] = conv_backward(grad, columns3, w3)
    grad = (grad[:, :, :, None, :, None] * chosen).reshape(out2.shape) * (out2 > 0)
    grad, grads["weight2"], grads["bias2"] = conv_backward(grad, columns2, w2)
    _, grads["weight1"], grads["bias1"] = conv_backward(grad * (out1 > 0), columns1, w1)
    return grads


def shifted(images: Floats, rng: np.random.Generator) -> Floats:
    """Move each image [N, 1, 8, 8] by up to one pixel, to make 897 images go further."""
    padded = np.pad(images[:, 0], ((0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (8, 8), axis=(1, 2))  # [N, 3, 3, 8, 8]
    down, right = rng.integers(0, 3, (2, len(images)))
    moved: Floats = windows[np.arange(len(images)), down, right][:, None]
    return moved


def train(images: Floats, labels: Ints, seed: int) -> Params:
    """Fit the network with Adam, the rate falling to zero along half a cosine.

    The test images play no part: there is no early stopping and no choice among runs.
    """
    rng = np.random.default_rng(seed)
    params = new_params(rng)
    mean = {name: np.zeros_like(value) for name, value in params.items()}
    square = {name: np.zeros_like(value) for name, value in params.items()}
    steps = EPOCHS * (len(images) // BATCH)
    for step in range(1, steps + 1):
        picked = rng.choice(len(images), BATCH, replace=False)
        grads = gradients(params, shifted(images[picked], rng), labels[picked])
        rate = PEAK_RATE * (1 + np.cos(np.pi * step / steps)) / 2
        rate *= np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for name, grad in grads.items():
            mean[name] += np.float32(0.1) * (grad - mean[name])
            square[name] += np.float32(0.001) * (grad * grad - square[name])
            params[name] -= np.float32(rate) * mean[name] / (np.sqrt(square[name]) + 1e-8)
    return params
