"""Caches of experts under different policies, played over a recorded routing.

A request is a layer and all experts that a pass needs of it: one token's, or the union of several sequences'. A hit is
an expert that is there when its layer asks. What is missing is read and used in any case; a policy may keep it or let
it go, since a ring for what is streamed exists anyway. So most policies are a score: after each request the cache keeps
those with the highest scores among what it had and what came, over all layers together unless said.

* `fixed`: an arbitrary set that never changes; what a plan without a cache has.
* `hot list`: the most used on another text, never changed.
* `LRU`, `LRU per layer`: the score is the time of the last use.
* `LFU n`: the score is the count of uses, halved every n passes; a newcomer stays only if it beats the lowest.
* `LFU n, takes all`: the same, but what just came always stays, as a cache that must hold what is in use has it.
* `S3-FIFO`: Yang et al. 2023, a tenth of the room for newcomers, queues instead of scores, a ghost of as many names.
* `Belady`: the score is the time of the next use, known from the future: no policy does better.
"""

from collections import OrderedDict, deque

import numpy as np

CAPACITIES = [10, 20, 30, 40, 50, 60, 70, 80]  # percent of all experts
HALF_LIVES = [8, 32, 128, 512]  # passes
WARM = 8  # one part of so many at the beginning is not counted
NEVER = 1 << 60


def requests(chosen, together):
    """Passes of so many sequences decoded together: a list of layers' sorted experts for each."""
    sequences, positions, layers, _ = chosen.shape
    groups = chosen.reshape(sequences // together, together, positions, layers, -1)
    return [[np.unique(g[:, p, i]).astype(np.int64) for i in range(layers)] for g in groups for p in range(positions)]


class Scored:
    """A cache that keeps what has the highest scores; `touch` sets them."""

    def __init__(self, capacity, layers, experts):
        self.capacity, self.layers, self.experts = capacity, layers, experts
        self.score, self.held, self.count = np.zeros(layers * experts), np.zeros(layers * experts, bool), 0
        self.now = 0

    def touch(self, keys):
        self.score[keys] = self.now

    def pass_begins(self):
        pass

    def ask(self, layer, ids):
        """How many of a layer's experts are there."""
        self.now += 1
        keys = layer * self.experts + ids
        hits = int(self.held[keys].sum())
        self.touch(keys)
        self.held[keys] = True
        self.count += len(keys) - hits
        self.shrink(slice(None), self.count - self.capacity)
        return hits

    def shrink(self, part, excess):
        if excess > 0:
            there = np.flatnonzero(self.held[part])
            lowest = there[np.argpartition(self.score[part][there], excess - 1)[:excess]]
            self.held[part][lowest] = False
            self.count -= excess


class PerLayer(Scored):
    """LRU in as many equal parts as there are layers."""

    def ask(self, layer, ids):
        self.now += 1
        part = slice(layer * self.experts, (layer + 1) * self.experts)
        held = self.held[part]
        hits = int(held[ids].sum())
        self.score[part][ids] = self.now
        held[ids] = True
        # Where the layers do not divide the room, the first ones have one more.
        room = self.capacity // self.layers + (layer < self.capacity % self.layers)
        self.shrink(part, int(held.sum()) - room)
        return hits


class Constant(Scored):
    def __init__(self, capacity, layers, experts, score):
        super().__init__(capacity, layers, experts)
        self.score = score
        self.held[np.argsort(-score, kind="stable")[:capacity]] = True
        self.count = capacity

    def touch(self, keys):
        pass


class Lfu(Scored):
    def __init__(self, capacity, layers, experts, half_life, takes_all):
        super().__init__(capacity, layers, experts)
        self.grow, self.add, self.takes_all = 2 ** (1 / half_life), 1.0, takes_all

    def pass_begins(self):
        # New uses count for more and more, which is the same as all earlier ones counting for less.
        self.add *= self.grow
        if self.add > 1e12:
            self.score /= self.add
            self.add = 1.0

    def touch(self, keys):
        self.score[keys] += self.add
        self.asked = keys

    def shrink(self, part, excess):
        true = self.score[self.asked]
        if self.takes_all:
            self.score[self.asked] = np.inf
        super().shrink(part, excess)
        self.score[self.asked] = true


class Belady(Scored):
    def __init__(self, capacity, layers, experts, passes):
        super().__init__(capacity, layers, experts)
        self.times, last = [], np.full(layers * experts, NEVER)
        for now in range(len(passes) * layers - 1, -1, -1):
            keys = now % layers * experts + passes[now // layers][now % layers]
            self.times.append(-last[keys])
            last[keys] = now

    def touch(self, keys):
        self.score[keys] = self.times.pop()


class S3Fifo:
    def __init__(self, capacity, layers, experts):
        self.experts, self.capacity = experts, capacity
        self.small_room = max(1, capacity // 10)
        self.small, self.main, self.ghost, self.uses = deque(), deque(), OrderedDict(), {}

    def pass_begins(self):
        pass

    def ask(self, layer, ids):
        hits = 0
        for key in (layer * self.experts + ids).tolist():
            if key in self.uses:
                hits += 1
                self.uses[key] = min(3, self.uses[key] + 1)
                continue
            if len(self.uses) >= self.capacity:
                self.evict()
            if self.ghost.pop(key, False):
                self.main.append(key)
            else:
                self.small.append(key)
            self.uses[key] = 0
        return hits

    def evict(self):
        before = len(self.uses)
        while len(self.uses) == before:
            if len(self.small) >= self.small_room or not self.main:
                key = self.small.popleft()
                if self.uses[key] > 0:
                    self.uses[key] = 0
                    self.main.append(key)
                    continue
                self.ghost[key] = True
                if len(self.ghost) > self.capacity:
                    self.ghost.popitem(last=False)
            else:
                key = self.main.popleft()
                if self.uses[key] > 0:
                    self.uses[key] -= 1
                    self.main.append(key)
                    continue
            del self.uses[key]


def policies(passes, layers, experts, profile):
    """Name and maker of each; a maker takes the capacity."""
    shuffled = np.random.default_rng(0).permutation(layers * experts).astype(float)
    made = {
        "fixed": lambda c: Constant(c, layers, experts, shuffled),
        "hot list": lambda c: Constant(c, layers, experts, profile.ravel().astype(float)),
        "LRU": lambda c: Scored(c, layers, experts),
        "LRU per layer": lambda c: PerLayer(c, layers, experts),
        "S3-FIFO": lambda c: S3Fifo(c, layers, experts),
    }
    for n in HALF_LIVES:
        made[f"LFU {n}"] = lambda c, n=n: Lfu(c, layers, experts, n, False)
        made[f"LFU {n}, takes all"] = lambda c, n=n: Lfu(c, layers, experts, n, True)
    return made | {"Belady": lambda c: Belady(c, layers, experts, passes)}


def hit_rate(cache, passes):
    hits = asked = 0
    for number, layers in enumerate(passes):
        cache.pass_begins()
        for layer, ids in enumerate(layers):
            found = cache.ask(layer, ids)
            if number >= len(passes) // WARM:
                hits, asked = hits + found, asked + len(ids)
    return hits / asked


def table(chosen, experts, profile, most):
    """{sequences together: {"experts_per_layer", "policies": {name: {percent of all experts: hit rate}}}}."""
    layers, out = chosen.shape[2], {}
    for together in (1, most):
        passes = requests(chosen, together)
        mean = float(np.mean([len(ids) for p in passes for ids in p]))
        out[str(together)] = {"experts_per_layer": round(mean, 2), "policies": {}}
        for name, make in policies(passes, layers, experts, profile).items():
            rates = {str(c): round(hit_rate(make(c * layers * experts // 100), passes), 4) for c in CAPACITIES}
            out[str(together)]["policies"][name] = rates
    return out


def markdown(kept):
    lines = []
    for together, part in kept["hit_rates"].items():
        many = f"{together} sequences together" if int(together) > 1 else "One sequence"
        lines += [f"{many}: {part['experts_per_layer']} experts of a layer in a pass; hits at a room for", ""]
        lines += ["| policy | " + " | ".join(f"{c}%" for c in CAPACITIES) + " |", "|---" * (len(CAPACITIES) + 1) + "|"]
        for name, rates in part["policies"].items():
            lines.append(f"| {name} | " + " | ".join(f"{rates[str(c)]:.0%}" for c in CAPACITIES) + " |")
        lines.append("")
    lines.append("Experts of layers 2, 3 … among the n that their router prefers on the row of the layer before:")
    for n, found in kept["lookahead"].items():
        lines.append(f"{n}: " + " ".join(f"{x:.0%}" for x in found))
    return "\n".join(lines)
