"""Owns the training-speed forms of model.py's operations: autograd functions over kernels.c,
built with the C compiler into a cache folder and switched in by install().
Refuses to differ from model.py: train-model.py compares loss and gradients before it starts.
"""
import ctypes
import subprocess
from pathlib import Path

import torch

import model

LIBRARY = None
F32, LONG = ctypes.c_float, ctypes.c_long


def install(folder):
    global LIBRARY
    source, target = Path(__file__).with_name("kernels.c"), Path(folder).resolve() / "kernels.so"
    subprocess.run(["cc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", str(source), "-o", str(target), "-lm"],
                   check=True)
    LIBRARY = ctypes.CDLL(str(target))
    LIBRARY.cross_entropy.restype = ctypes.c_double
    model.RmsNorm, model.TiedCrossEntropy = RmsNorm, TiedCrossEntropy
    model.experts, model.attention, model.head_norm_rope = Experts.apply, attention, HeadNormRope.apply


def call(name, *values):
    out = []
    for v in values:
        if isinstance(v, torch.Tensor):
            if not v.is_contiguous():
                raise ValueError(f"{name} takes contiguous tensors")
            out.append(ctypes.c_void_p(v.data_ptr()))
        else:
            out.append(F32(v) if isinstance(v, float) else LONG(v))
    return getattr(LIBRARY, name)(*out)


class RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        d = x.shape[-1]
        y, r = torch.empty_like(x), torch.empty(x.numel() // d)
        call("rms_forward", x, weight, y, r, len(r), d, eps)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, r = ctx.saved_tensors
        gx, gw = torch.empty_like(x), torch.zeros_like(weight)
        call("rms_backward", x, weight, r, grad.contiguous(), gx, gw, len(r), x.shape[-1])
        return gx, gw, None


class HeadNormRope(torch.autograd.Function):
    """[B*T, heads*D] -> normalised, rotated [B, heads, T, D]."""

    @staticmethod
    def forward(ctx, x, weight, eps, cos, sin, b):
        t, d = cos.shape
        h = x.shape[1] // d
        y, r = torch.empty(b, h, t, d), torch.empty(b * t * h)
        call("head_forward", x, weight, cos, sin, y, r, b, t, h, d, eps)
        ctx.save_for_backward(x, weight, r, cos, sin)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, r, cos, sin = ctx.saved_tensors
        b, h, t, d = grad.shape
        gx, gw = torch.empty_like(x), torch.zeros_like(weight)
        call("head_backward", x, weight, r, cos, sin, grad.contiguous(), gx, gw, b, t, h, d)
        return gx, gw, None, None, None, None


class Attention(torch.autograd.Function):
    """q [N, G, T, D], k and v [N, T, D] -> [N, G, T, D], by query blocks."""

    @staticmethod
    def forward(ctx, q, k, v):
        n, g, t, d = q.shape
        out, kept = torch.empty_like(q), []
        for s in range(0, t, model.ATTENTION_BLOCK):
            e = min(t, s + model.ATTENTION_BLOCK)
            p = torch.bmm(q[:, :, s:e].reshape(n, g * (e - s), d), k[:, :e].transpose(1, 2))
            call("softmax_forward", p, n * g, e - s, e, s, d ** -0.5)
            out[:, :, s:e] = torch.bmm(p, v[:, :e]).view(n, g, e - s, d)
            kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *kept = ctx.saved_tensors
        n, g, t, d = q.shape
        gq, gk, gv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, p in enumerate(kept):
            s = i * model.ATTENTION_BLOCK
            e = min(t, s + model.ATTENTION_BLOCK)
            go = grad[:, :, s:e].reshape(n, g * (e - s), d)
            gv[:, :e] += torch.bmm(p.transpose(1, 2), go)
            gs = torch.bmm(go, v[:, :e].transpose(1, 2))
            call("softmax_backward", p, gs, n * g, e - s, e, s, d ** -0.5)
            gq[:, :, s:e] = torch.bmm(gs, k[:, :e]).view(n, g, e - s, d)
            gk[:, :e] += torch.bmm(gs.transpose(1, 2), q[:, :, s:e].reshape(n, g * (e - s), d))
        return gq, gk, gv


def attention(q, k, v):
    b, kv, g, t, d = q.shape
    out = Attention.apply(q.reshape(b * kv, g, t, d), k.reshape(b * kv, t, d), v.reshape(b * kv, t, d))
    return out.view(b, kv * g, t, d)


class Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, index, weight, gate, up, down):
        k, e = index.shape[1], gate.shape[0]
        flat = index.reshape(-1)
        order = flat.argsort()
        rows, counts = order // k, torch.bincount(flat, minlength=e).tolist()
        xs, w = x[rows], weight.reshape(-1)[order]
        g, u = torch.empty(len(rows), gate.shape[1]), torch.empty(len(rows), gate.shape[1])
        h, hw = torch.empty_like(g), torch.empty_like(g)
        at = 0
        for i, n in enumerate(counts):
            torch.mm(xs[at:at + n], gate[i].t(), out=g[at:at + n])
            torch.mm(xs[at:at + n], up[i].t(), out=u[at:at + n])
            at += n
        call("swiglu_forward", g, u, w, h, hw, len(rows), g.shape[1])
        y, at = torch.empty_like(xs), 0
        for i, n in enumerate(counts):
            torch.mm(hw[at:at + n], down[i].t(), out=y[at:at + n])
            at += n
        ctx.counts = counts
        ctx.save_for_backward(xs, w, rows, order, gate, up, down, g, u, h, hw)
        return torch.zeros_like(x).index_add_(0, rows, y)

    @staticmethod
    def backward(ctx, grad):
        xs, w, rows, order, gate, up, down, g, u, h, hw = ctx.saved_tensors
        gy, gh = grad[rows], torch.empty_like(h)
        ggate, gup, gdown = torch.empty_like(gate), torch.empty_like(up), torch.empty_like(down)
        at = 0
        for i, n in enumerate(ctx.counts):
            torch.mm(gy[at:at + n], down[i], out=gh[at:at + n])
            torch.mm(gy[at:at + n].t(), hw[at:at + n], out=gdown[i])
            at += n
        gw = torch.empty_like(w)
        call("swiglu_backward", g, u, w, h, gh, gw, len(rows), h.shape[1])
        gx, at = gy, 0
        for i, n in enumerate(ctx.counts):
            xi, gi, ui = xs[at:at + n], g[at:at + n], u[at:at + n]
            torch.mm(gi.t(), xi, out=ggate[i])
            torch.mm(ui.t(), xi, out=gup[i])
            torch.mm(gi, gate[i], out=gx[at:at + n])
            gx[at:at + n].addmm_(ui, up[i])
            at += n
        gweight = torch.empty_like(w)
        gweight[order] = gw
        return torch.zeros_like(grad).index_add_(0, rows, gx), None, gweight.view(len(grad), -1), ggate, gup, gdown


class TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets):
        grad_x, grad_w, total = torch.empty_like(x), torch.zeros_like(weight), 0.0
        for s in range(0, len(x), 256):
            xs, ts = x[s:s + 256], targets[s:s + 256].contiguous()
            z = xs @ weight.t()
            total += call("cross_entropy", z, ts, len(xs), z.shape[1])
            torch.mm(z, weight, out=grad_x[s:s + 256])
            grad_w.addmm_(z.t(), xs)
        ctx.save_for_backward(grad_x.div_(len(x)), grad_w.div_(len(x)))
        return x.new_tensor(total / len(x))

    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grad, grad_w * grad, None
