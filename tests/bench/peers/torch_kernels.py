"""Torch on the CPU at the shapes of tests/bench/kernels.ts, float32: what the same cores reach with native code.

    python3 tests/bench/peers/torch_kernels.py [THREADS]
"""

import sys

from serve import serve

import torch
import torch.nn.functional as F

if len(sys.argv) > 1:
    torch.set_num_threads(int(sys.argv[1]))
torch.set_grad_enabled(False)


def random(*shape):
    return torch.rand(*shape) - 0.5


def matmul(r):
    a, b = random(r["batch"], r["m"], r["k"]), random(r["batch"], r["n"], r["k"])
    if r["batch"] == 1 and r["fused"]:
        bias, residual = random(r["n"]), random(r["m"], r["n"])
        return lambda: F.linear(a[0], b[0], bias).add_(residual)
    if r["batch"] == 1:
        return lambda: F.linear(a[0], b[0])
    return lambda: torch.bmm(a, b.transpose(1, 2))


def conv2d(r):
    x, w = random(1, r["ci"], r["height"], r["width"]), random(r["co"], r["ci"], r["kernel"], r["kernel"])
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    padding = r["kernel"] // 2

    def work():
        big = x if r["upsample"] == 1 else F.interpolate(x, scale_factor=r["upsample"], mode="nearest")
        F.conv2d(big, w, stride=r["stride"], padding=padding)

    return work


def attention(r):
    q = random(1, r["heads"], r["tokens"], r["d"])
    k, v = random(1, r["heads"], r["keys"], r["d"]), random(1, r["heads"], r["keys"], r["d"])
    return lambda: F.scaled_dot_product_attention(q, k, v)


def group_norm(r):
    x, w = random(1, r["channels"], r["height"], r["width"]), random(r["channels"])
    return lambda: F.silu(F.group_norm(x, 32, w, w), inplace=True)


def layer_norm(r):
    x, w = random(r["rows"], r["channels"]), random(r["channels"])
    return lambda: F.layer_norm(x, (r["channels"],), w, w)


def softmax(r):
    x = random(r["rows"], r["channels"])
    return lambda: x.softmax(-1)


def silu(r):
    x = random(r["rows"], r["channels"])
    return lambda: F.silu(x)


def geglu(r):
    x = random(r["rows"], 2 * r["channels"])

    def work():
        value, gate = x.chunk(2, -1)
        F.gelu(gate).mul_(value)

    return work


def add(r):
    x, y = random(r["rows"], r["channels"]), random(r["rows"], r["channels"])
    return lambda: x + y


def concat(r):
    x, y = random(r["rows"], r["channels"]), random(r["rows"], r["channels"])
    return lambda: torch.cat([x, y], -1)


class Once:
    """The last request's work is kept: it is asked for in several rounds."""

    def __init__(self, handlers):
        self.handlers, self.key, self.work = handlers, None, None

    def __call__(self, request):
        key = str({k: v for k, v in request.items() if k != "times"})
        if key != self.key:
            work = self.handlers[request["op"]](request)
            self.work = lambda: void(work)
            self.work()
            self.key = key
        return self.work


def void(work):
    work()


HANDLERS = {
    f.__name__: f
    for f in (matmul, conv2d, attention, group_norm, layer_norm, softmax, silu, geglu, add, concat)
}
once = Once(HANDLERS)
serve(
    {"name": f"torch {torch.__version__}, f32", "threads": torch.get_num_threads()},
    {name: once for name in HANDLERS},
)
