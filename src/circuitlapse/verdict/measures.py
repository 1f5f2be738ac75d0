"""The measures that a label is made from, as the rows of the tables ``carriers`` and ``bits``.

A run, a comparison and a calibrated organism are judged from these rows alone, so that a reader can
make every label again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitlapse.records.carriers import Carriers
from circuitlapse.stats.intervals import Estimate, percentile_ends
from circuitlapse.stats.measured import Measured

NOT_MEASURED = Measured(not_reported="it was not measured")
_BITS = {"ratio": "bits_ratio", "right_before": "right_before", "gain_on_right": "gain_on_right"}
_ONCE = (("", "bits_ratio"), ("", "right_before"), ("relearned", "same_directions"))
"""Measures of the base, which are the same for every seed of a fine-tune."""
_NORMAL = 2 * 1.959964  # standard deviations in a 95 % interval


@dataclass(frozen=True)
class Measures:
    """The measures of one fine-tune.

    Attributes:
        found: By set of heads and measure, as the table ``carriers`` names them. bits_ratio has no
            heads; the relearned control is the same_directions of ``relearned``.
        names: The heads of each set.
    """

    found: Mapping[tuple[str, str], Measured]
    names: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_rows(
        cls, rows: Iterable[Mapping[str, Any]], bits: Iterable[Mapping[str, Any]] = ()
    ) -> "Measures":
        """Read rows of the tables ``carriers``, of one step, and ``bits``."""
        rows = list(rows)
        found = {
            (row["heads"], row["measure"]): Measured(
                row["value"], tuple(row["groups"] or ()), row["not_reported"]
            )
            for row in rows
        }
        for row in bits:
            if name := _BITS.get(row["which"]):
                found["", name] = Measured(row["value"], not_reported=row["not_reported"])
        return cls(found, {row["heads"]: tuple(row["names"].split()) for row in rows})

    @classmethod
    def of_carriers(
        cls, carriers: Carriers, bits: Measured | None = None, relearned: Estimate | None = None
    ) -> "Measures":
        """Take measures that are not in a table."""
        found = cls.of_rows(carriers.rows())
        others: dict[tuple[str, str], Measured] = {}
        if bits is not None:
            others["", "bits_ratio"] = bits
        if relearned is not None:
            others["relearned", "same_directions"] = Measured(relearned)
        return cls({**found.found, **others}, found.names)

    def of(self, heads: str, measure: str) -> Measured:
        """Return a measure of a set of heads."""
        return self.found.get((heads, measure), NOT_MEASURED)

    @property
    def late_writers(self) -> tuple[str, ...]:
        """Old-task heads that mostly write to the logits."""
        early = self.names.get("early", ())
        return tuple(head for head in self.names.get("old", ()) if head not in early)


def heads_of_directions(choice: str, *, controlled: bool) -> str:
    """Name the heads whose same_directions decide: all of them only with the relearned control.

    Late writers are known of the main choice only.
    """
    return choice if controlled or choice != "old" else "early"


def pooled_measures(seeds: Sequence[Measures], *, repeats: int, seed: int) -> Measures:
    """Return the measures of several fine-tunes together, over seeds and prompts.

    Seeds are resampled. In each resample a seed's value is drawn from a normal distribution with
    its interval over prompts, since tables hold no prompts. Groups are averaged in order of size,
    so the largest is the mean of the largest. A measure that a seed lacks is not reported.
    """
    keys = list(dict.fromkeys(key for each in seeds for key in each.found))
    generator = np.random.default_rng(seed)
    found = {}
    for key in keys:
        values = [each.of(*key) for each in seeds]
        found[key] = values[0] if key in _ONCE else _pooled(values, repeats, generator)
    names = {
        heads: tuple(dict.fromkeys(name for each in seeds for name in each.names.get(heads, ())))
        for each in seeds
        for heads in each.names
    }
    return Measures(found, names)


def pooled_estimate(
    values: Sequence[Estimate], repeats: int, generator: np.random.Generator
) -> Estimate:
    """Return the mean over seeds, with its interval over seeds and prompts."""
    means = np.array([each.value for each in values])
    spread = np.array([(each.high - each.low) / _NORMAL for each in values])
    drawn = generator.integers(0, len(values), size=(repeats, len(values)))
    resampled = generator.normal(means[drawn], spread[drawn]).mean(axis=1)
    low, high = percentile_ends(resampled[:, None])
    return Estimate(value=float(means.mean()), low=float(low[0]), high=float(high[0]))


def _pooled(values: Sequence[Measured], repeats: int, generator: np.random.Generator) -> Measured:
    estimates = [each.estimate for each in values if each.estimate is not None]
    if len(estimates) < len(values):
        lacking = next(each.not_reported for each in values if each.estimate is None)
        without = len(values) - len(estimates)
        return Measured(not_reported=f"{without} of {len(values)} seeds: {lacking}")
    sizes = min(len(each.groups) for each in values)
    groups = np.array([sorted(each.groups)[len(each.groups) - sizes :] for each in values])
    mean = tuple(map(float, groups.mean(axis=0))) if sizes else ()
    return Measured(pooled_estimate(estimates, repeats, generator), mean)
