"""What a short trial costs on a cluster: hosts apart, S3 storage, MLflow on Postgres, a client elsewhere.

    python benchmarks/cluster_overhead.py [--trials 500]

Head, two workers of one core each, services and client are network namespaces of this machine, so all of them share its
cores: the figure is an upper bound. A trial's own work is what it records of itself (`cost/...`); the rest of the time
between the first and the last trial's end, for each worker, is overhead. Needs root, iproute2 and Postgres' programs.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

from compare import machine

TESTS = Path(__file__).parents[1] / "tests"
FEW = 10
"""Trials at the start that are left out: their workers were not warm yet."""
STEP = 100
"""Trials between two looks at the driver's memory."""


def main() -> None:
    """Prints seconds a trial, its own work, the overhead, and the driver's memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    count = parser.parse_args().trials
    sys.path[:0] = [str(TESTS), str(TESTS / "e2e")]
    import hosts
    import postgres

    if reason := hosts.why_not() or (postgres.NO_PROGRAMS if postgres.programs() is None else None):
        print(f"left out: {reason}")
        return
    from apart import WORKERS, cluster_apart
    from many import run_many

    with cluster_apart() as apart:
        many = run_many(apart, "many", count)
        runs = apart.recorded("many")
    ends = sorted(run["end_ms"] for run in runs)
    each = len(WORKERS) * (ends[-1] - ends[FEW - 1]) / 1000 / (count - FEW)
    costs = [sum(v for k, v in run["metrics"].items() if k.startswith("cost/") and "_seconds" in k) for run in runs]
    load = " / ".join(f"{value:.1f}" for value in os.getloadavg())
    trials = {run["tags"]["flatsweep.trial_id"] for run in runs if run["status"] == "FINISHED"}
    print(f"{machine()}, load {load}; {len(WORKERS)} workers")
    print(f"{len(runs)} runs, FINISHED those of {len(trials)} different trials of {count}")
    print(f"{each:.2f} s a trial and worker, of that {statistics.median(costs):.2f} s its own work")
    print(f"overhead {each - statistics.median(costs):.2f} s")
    sizes = [f"{done}: {many.memory.at(ends[done - 1] / 1000):.0f}" for done in range(STEP, count + 1, STEP)]
    print(f"driver, MiB by trials done: {', '.join(sizes)}; at most {max(size for _, size in many.memory.samples):.0f}")


if __name__ == "__main__":
    main()
