"""Muon: momentum, orthogonalised (Jordan et al. 2024), for matrices and convolutions; AdamW for all else.

    M <- mu M + G,   U = NewtonSchulz(G + mu M) ~ (A A^T)^(-1/2) A,   W <- (1 - lr wd) W - lr 0.2 sqrt(max(m, n)) U

Kernels [out, in, k, k] count as [out, in k k]. The factor gives updates the size AdamW's have (Liu et al. 2025), so
both share one learning rate. On two cores it reaches a given loss in about half AdamW's time.
"""

from __future__ import annotations

import torch

#: x <- a x + b x^3 + c x^5 on singular values, round by round (Polar Express, Amsel et al. 2025)
ROUNDS = ((8.2051, -22.9019, 16.4607), (4.0664, -2.8612, 0.5184), (3.9096, -2.8234, 0.5250))


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrix of `matrix` [m,n], roughly: most singular values land in 0.7..1.3."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (1.01 * x.norm() + 1e-7)
    for a, b, c in ROUNDS:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two or more dimensions, AdamW (betas 0.9, 0.99) for vectors and for `plain` ones."""

    def __init__(self, parameters, lr: float, weight_decay: float = 0.0, momentum: float = 0.95, plain=()):
        parameters, apart = list(parameters), {id(p) for p in plain}
        matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in apart]
        others = [p for p in parameters if p.ndim < 2 or id(p) in apart]
        super().__init__([{"params": matrices, "muon": True}, {"params": others, "muon": False}],
                         dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(count=0, first=torch.zeros_like(p))
                    if not group["muon"]:
                        state["second"] = torch.zeros_like(p)
                state["count"] += 1
                p.mul_(1 - group["lr"] * group["weight_decay"])
                (self.turn if group["muon"] else self.adapt)(p, state, group)

    def turn(self, p, state: dict, group: dict) -> None:
        """Muon's update of one matrix or kernel."""
        mu = group["momentum"]
        state["first"].mul_(mu).add_(p.grad)
        update = orthogonalise((p.grad + mu * state["first"]).flatten(1))
        p.add_(update.view_as(p), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)

    def adapt(self, p, state: dict, group: dict) -> None:
        """Adam's update of one vector."""
        state["first"].lerp_(p.grad, 0.1)
        state["second"].lerp_(p.grad**2, 0.01)
        first = state["first"] / (1 - 0.9 ** state["count"])
        second = state["second"] / (1 - 0.99 ** state["count"])
        p.addcdiv_(first, second.sqrt().add_(1e-8), value=-group["lr"])
