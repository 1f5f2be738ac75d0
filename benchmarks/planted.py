"""Plant every kind of truth on some seeds and print what each reached, rejected ones included.

    .venv/bin/python benchmarks/planted.py --seeds 0 1

Models are kept in the cache of organisms, so that a second call only measures. Seconds are of this
process's processor time, and 0 or a few where everything was in the cache; the base is made with
the first kind of its seed.
"""

import argparse
import time
from pathlib import Path

from circuitlapse import CircuitlapseError
from circuitlapse.calibration import KINDS, plant, planted_recipe
from circuitlapse.training.placebos import PLACEBOS

SHOWN = ("base_old", "base_new", "tuned_old", "tuned_new", "gain", "learned", "mediated",
         "by_gains", "opened_new")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--organism", default="default", choices=["default", "natural"])
    parser.add_argument("--cache", type=Path, default=None)
    arguments = parser.parse_args()
    recipe = planted_recipe(arguments.organism)
    columns = ["kind", "seed", "s", *SHOWN, "admitted"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for seed in arguments.seeds:
        for kind in KINDS:
            for placebo in PLACEBOS if kind == "nothing" else [""]:
                name = f"{kind}: {placebo}" if placebo else kind
                started = time.process_time()
                try:
                    found = plant(
                        kind, seed, placebo=placebo, recipe=recipe, cache_dir=arguments.cache
                    )
                except CircuitlapseError as error:
                    print(f"| {name} | {seed} | {'| ' * (len(SHOWN) + 1)}| no: {error} |")
                    continue
                seconds = time.process_time() - started
                figures = [
                    f"{found.figures[key]:.3f}" if key in found.figures else "" for key in SHOWN
                ]
                verdict = f"no: {found.refused}" if found.refused else "yes"
                print(f"| {name} | {seed} | {seconds:.0f} | {' | '.join(figures)} | {verdict} |",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
