"""What a world of the generator is like (``tests/sim/generator.py`` has the equations)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """One world; powers in watts, times in seconds, intensities in joules per CPU second."""

    packages: int = 2
    cpus: int = 16  # of each package
    seconds: float = 300.0
    workloads: int = 20  # residents, which live all the time
    patterns: tuple[str, ...] = ("bursts", "blips", "square", "steady")  # of resident i: i mod len
    load: float = 0.45  # expected busy share of the node, residents only
    sizes: tuple[float, ...] = ()  # CPUs of each resident while it runs; (): drawn to give the load
    intensities: tuple[float, ...] = ()  # of each resident; (): drawn
    equal: bool = False  # all intensities are mean_j
    sigma: float = 0.4
    mean_j: float = 6.0
    wander: float = 0.15
    wander_s: float = 1.0
    curve: str = "linear"  # "linear" | "sqrt" | "exp"
    change: float = 1.0
    changed: float = 0.5  # share of the residents that change
    pair: bool = False  # residents 0 and 1 always run together
    visitors: float = 0.0  # born per second; each lives 0.1 to 1 s and uses 0.1 to 0.5 CPU
    idle_w: float = 40.0  # each package
    idle_drift: float = 0.0  # relative, over the run
    min_load: float = 0.0  # the node's busy share is never less
    node_noise_w: float = 1.0
    quantum_uj: int = 61
    update_s: float = 0.000976
    update_jitter_s: float = 0.00003
    read_s: float = 0.05
    read_jitter_s: float = 0.002
    late_every: int = 200  # 0: never
    lost_every: int = 1000  # 0: never
    delay_s: float = 0.0
    wraps: int = 2  # at least this many in a run; 0: the counter never wraps
    scale: float = 1.0  # of all powers
