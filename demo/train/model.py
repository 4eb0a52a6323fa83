"""Owns the Qwen3-MoE forward pass used for training and evaluation (float32, CPU).
Refuses every other architecture: per-head RMSNorm before rotate-half RoPE, grouped-query
attention, softmax router over all experts, renormalised top-k, SwiGLU experts, tied output.
"""
import math

import torch
import torch.nn.functional as F

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 6144, "hidden_size": 256,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
    "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 64, "intermediate_size": 512,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu",
    "rope_theta": 10000.0, "rope_scaling": None, "rms_norm_eps": 1e-6, "max_position_embeddings": 1024,
    "attention_bias": False, "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None,
    "tie_word_embeddings": True, "initializer_range": 0.02, "router_aux_loss_coef": 0.03,
    "output_router_logits": False, "use_cache": True, "bos_token_id": None, "eos_token_id": [0, 4], "torch_dtype": "bfloat16",
}
# By name: the demo, and a larger one for what is measured on more than one model (docs/compression.md): more and
# smaller choices per token, as published models of many experts have.
CONFIGS = {"demo": CONFIG, "larger": {**CONFIG, "num_hidden_layers": 6, "num_experts": 64, "num_experts_per_tok": 8}}
ATTENTION_BLOCK = 128


def shapes(c):
    """Name -> shape of every trained tensor; experts are stacked per layer (see safetensors_file.py)."""
    h, d, i, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    out = {"model.embed_tokens.weight": (c["vocab_size"], h)}
    for n in range(c["num_hidden_layers"]):
        p = f"model.layers.{n}."
        out.update({
            p + "input_layernorm.weight": (h,), p + "post_attention_layernorm.weight": (h,),
            p + "self_attn.q_proj.weight": (q, h), p + "self_attn.k_proj.weight": (kv, h),
            p + "self_attn.v_proj.weight": (kv, h), p + "self_attn.o_proj.weight": (h, q),
            p + "self_attn.q_norm.weight": (d,), p + "self_attn.k_norm.weight": (d,),
            p + "mlp.gate.weight": (e, h), p + "mlp.experts.gate_proj": (e, i, h),
            p + "mlp.experts.up_proj": (e, i, h), p + "mlp.experts.down_proj": (e, h, i)})
    out["model.norm.weight"] = (h,)
    return out


def initialise(params, c, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in params.items():
        with torch.no_grad():
            if name.endswith("norm.weight"):
                p.fill_(1.0)
                continue
            std = 0.02 if "embed" in name or "mlp.gate." in name else 0.5 / math.sqrt(p.shape[-1])
            if "o_proj" in name or "down_proj" in name:
                std /= math.sqrt(2 * c["num_hidden_layers"])
            p.copy_(torch.randn(p.shape, generator=g) * std)


class RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        n = x * r
        ctx.save_for_backward(n, r, weight)
        return n * weight

    @staticmethod
    def backward(ctx, grad):
        n, r, weight = ctx.saved_tensors
        dims = tuple(range(grad.dim() - 1))
        grad_weight = (grad * n).sum(dims)
        g = grad * weight
        return (g - n * (g * n).mean(-1, keepdim=True)) * r, grad_weight, None


class TiedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of x @ weight.T against targets, by row blocks; gradients in the forward pass."""

    @staticmethod
    def forward(ctx, x, weight, targets):
        grad_x, grad_w, total = torch.empty_like(x), torch.zeros_like(weight), 0.0
        for s in range(0, len(x), 512):
            xs, ts = x[s:s + 512], targets[s:s + 512, None]
            logits = xs @ weight.t()
            lse = logits.logsumexp(-1, keepdim=True)
            total += float((lse - logits.gather(1, ts)).sum())
            logits.sub_(lse).exp_()
            logits.scatter_add_(1, ts, torch.full_like(lse, -1.0))
            torch.mm(logits, weight, out=grad_x[s:s + 512])
            grad_w.addmm_(logits.t(), xs)
        ctx.save_for_backward(grad_x.div_(len(x)), grad_w.div_(len(x)))
        return x.new_tensor(total / len(x))

    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grad, grad_w * grad, None


def rope_tables(length, c):
    d = c["head_dim"]
    freq = c["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), freq)
    return torch.cat([angle.cos(), angle.cos()], -1), torch.cat([-angle.sin(), angle.sin()], -1)


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([x[..., half:], x[..., :half]], -1) * sin


def head_norm_rope(x, weight, eps, cos, sin, b):
    """[B*T, heads*D] -> normalised, rotated [B, heads, T, D]."""
    t, d = cos.shape
    return rope(RmsNorm.apply(x.view(b, t, -1, d), weight, eps).transpose(1, 2), cos, sin)


def attention(q, k, v):
    """q [B, KV, G, T, D], k and v [B, KV, T, D]; causal, in query blocks so that no future block is computed."""
    b, kv, g, t, d = q.shape
    q = q.reshape(b * kv, g, t, d) * (d ** -0.5)
    k, v, out = k.reshape(b * kv, t, d), v.reshape(b * kv, t, d), []
    for s in range(0, t, ATTENTION_BLOCK):
        e = min(t, s + ATTENTION_BLOCK)
        n = e - s
        scores = q[:, :, s:e].reshape(b * kv, g * n, d) @ k[:, :e].transpose(1, 2)
        mask = torch.full((n, e), float("-inf")).triu(s + 1)
        scores = scores.view(b * kv, g, n, e) + mask
        out.append((scores.softmax(-1).view(b * kv, g * n, e) @ v[:, :e]).view(b * kv, g, n, d))
    return torch.cat(out, 2).view(b, kv * g, t, d)


def experts(x, index, weight, gate, up, down):
    """Tokens are sorted by expert, each expert works on its contiguous slice."""
    k, e = index.shape[1], gate.shape[0]
    flat = index.reshape(-1)
    order = flat.argsort()
    rows = order // k
    counts = torch.bincount(flat, minlength=e).tolist()
    parts = []
    for xs, g, u, d in zip(x[rows].split(counts), gate.unbind(0), up.unbind(0), down.unbind(0)):
        parts.append((F.silu(xs @ g.t()) * (xs @ u.t())) @ d.t())
    y = torch.cat(parts) * weight.reshape(-1)[order, None]
    return torch.zeros_like(x).index_add(0, rows, y)


def hidden_states(params, c, ids, trace=None):
    """Final normalised hidden states [B, T, H]. trace, if given, receives per layer
    (router probabilities [B*T, E], chosen experts [B*T, k], router logits)."""
    b, t = ids.shape
    heads, kv, d, eps = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["rms_norm_eps"]
    cos, sin = rope_tables(t, c)
    x = params["model.embed_tokens.weight"][ids] if not params["model.embed_tokens.weight"].requires_grad \
        else F.embedding(ids, params["model.embed_tokens.weight"])
    for n in range(c["num_hidden_layers"]):
        w = lambda s: params[f"model.layers.{n}.{s}"]
        h = RmsNorm.apply(x, w("input_layernorm.weight"), eps).view(b * t, -1)
        q = head_norm_rope(h @ w("self_attn.q_proj.weight").t(), w("self_attn.q_norm.weight"), eps, cos, sin, b)
        k = head_norm_rope(h @ w("self_attn.k_proj.weight").t(), w("self_attn.k_norm.weight"), eps, cos, sin, b)
        v = (h @ w("self_attn.v_proj.weight").t()).view(b, t, kv, d).transpose(1, 2)
        a = attention(q.view(b, kv, heads // kv, t, d), k, v).transpose(1, 2).reshape(b * t, heads * d)
        x = x + (a @ w("self_attn.o_proj.weight").t()).view(b, t, -1)
        h = RmsNorm.apply(x, w("post_attention_layernorm.weight"), eps).view(b * t, -1)
        router = h @ w("mlp.gate.weight").t()
        probs = router.softmax(-1)
        top, index = probs.topk(c["num_experts_per_tok"], -1)
        if c["norm_topk_prob"]:
            top = top / top.sum(-1, keepdim=True)
        if trace is not None:
            trace.append((probs, index, router))
        y = experts(h, index, top, w("mlp.experts.gate_proj"), w("mlp.experts.up_proj"), w("mlp.experts.down_proj"))
        x = x + y.view(b, t, -1)
    return RmsNorm.apply(x, params["model.norm.weight"], eps)


def logits(params, c, ids, trace=None):
    return hidden_states(params, c, ids, trace) @ params["model.embed_tokens.weight"].t()


def token_nll(params, c, ids, targets):
    """Negative log-likelihood in nats of every target, shape of targets."""
    with torch.no_grad():
        h = hidden_states(params, c, ids).reshape(targets.numel(), -1)
        out = []
        for s in range(0, len(h), 512):
            z = h[s:s + 512] @ params["model.embed_tokens.weight"].t()
            out.append(z.logsumexp(-1) - z.gather(1, targets.reshape(-1)[s:s + 512, None])[:, 0])
        return torch.cat(out).view(targets.shape)
