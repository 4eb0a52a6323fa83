"""Owns the update rule: Muon for the matrices, AdamW for embeddings, router and norms.
Refuses to own memory: every tensor it is given (parameters, momentum, second moment) is a view
of a buffer that the caller shares between processes and checkpoints.
"""
import torch

MUON_LR, MUON_MOMENTUM, MUON_DECAY = 0.02, 0.95, 0.05
ADAM_BETAS, ADAM_EPS = (0.9, 0.95), 1e-10


def is_matrix(name):
    return "proj" in name


def adam_lr(name):
    return 0.002 if "mlp.gate." in name else 0.004


def orthogonalise(m):
    """Newton-Schulz quintic iteration towards the nearest semi-orthogonal matrix."""
    tall = m.shape[0] > m.shape[1]
    x = m.t().contiguous() if tall else m.clone()
    x /= x.norm() + 1e-7
    for _ in range(5):
        a = x @ x.t()
        b = torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, b, x, beta=3.4445)
    return x.t() if tall else x


def muon_step(p, grad, momentum, scale):
    momentum.mul_(MUON_MOMENTUM).add_(grad, alpha=1 - MUON_MOMENTUM)
    update = grad.lerp(momentum, MUON_MOMENTUM)
    lr = MUON_LR * scale
    p.mul_(1 - lr * MUON_DECAY)
    for w, u in zip(*((p, update) if p.dim() == 3 else ([p], [update]))):
        w.add_(orthogonalise(u), alpha=-lr * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)


def adam_step(name, p, grad, m, v, step, scale):
    b1, b2 = ADAM_BETAS
    m.lerp_(grad, 1 - b1)
    v.mul_(b2).addcmul_(grad, grad, value=1 - b2)
    denominator = (v / (1 - b2 ** step)).sqrt_().add_(ADAM_EPS)
    p.addcdiv_(m, denominator, value=-adam_lr(name) * scale / (1 - b1 ** step))
