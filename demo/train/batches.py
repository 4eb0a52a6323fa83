"""Owns which tokens each training row holds: domain mixture, chat share, epochs without repeats.
Refuses to draw a chunk twice within an epoch of a stream; its position is saved and restored.
"""
import numpy as np

TEMPERATURE = 0.6
CHAT_SHARE = 0.17


class Batches:
    def __init__(self, work, domains, rank, world, seed):
        self.rank, self.world, self.seed = rank, world, seed
        self.streams = {f"{d}.{kind}": np.fromfile(work / f"{d}.{kind}.u16", dtype=np.uint16)
                        for d in domains for kind in ("train", "chat")}
        self.size = np.array([len(self.streams[f"{d}.train"]) for d in domains], dtype=np.float64) ** TEMPERATURE
        self.domains = domains
        self.weigh(np.ones(len(domains)))
        self.position = {name: [0, 0, 0] for name in self.streams}   # epoch, next chunk, chunk length
        self.order = {}
        self.rng = np.random.default_rng([seed, rank])

    def weigh(self, factors):
        """Factors on the tempered mixture, one per domain."""
        share = self.size * np.asarray(factors)
        self.edges = np.cumsum(share / share.sum())

    def chunk(self, name, length):
        stream, pos = self.streams[name], self.position[name]
        if pos[2] != length:
            pos[:] = [pos[0] + 1, 0, length]
        key = (name, pos[0], length)
        if key not in self.order:
            rng = np.random.default_rng([self.seed, sum(map(ord, name)), pos[0]])
            starts = np.arange(rng.integers(length), len(stream) - length - 1, length)
            self.order = {k: v for k, v in self.order.items() if k[0] != name}
            self.order[key] = rng.permutation(starts)[self.rank::self.world]
        starts = self.order[key]
        start = starts[pos[1]]
        pos[1] += 1
        if pos[1] >= len(starts):
            pos[:] = [pos[0] + 1, 0, length]
        return stream[start:start + length + 1]

    def next(self, rows, length):
        """int64 array [rows, length + 1]; domains by systematic sampling of the mixture."""
        points = (self.rng.random() + np.arange(rows)) / rows
        picks = np.searchsorted(self.edges, np.minimum(points % 1.0, self.edges[-1] - 1e-12))
        kinds = np.where(self.rng.random(rows) < CHAT_SHARE, "chat", "train")
        self.picks = picks      # domain numbers of the rows just drawn
        return np.stack([self.chunk(f"{self.domains[d]}.{k}", length) for d, k in zip(picks, kinds)]).astype(np.int64)

    def state(self):
        return {"position": self.position, "rng": self.rng.bit_generator.state}

    def restore(self, state):
        self.position = state["position"]
        self.rng.bit_generator.state = state["rng"]
