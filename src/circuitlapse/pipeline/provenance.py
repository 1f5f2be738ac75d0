"""Where a run's numbers come from: versions, hashes, the machine, and the time each part took."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime

import circuitlapse
from circuitlapse.config import Experiment
from circuitlapse.records import Provenance, Store, key_of

_LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "accelerate", "peft", "numpy", "scipy",
              "polars", "safetensors")  # fmt: skip


def provenance(store: Store, experiment: Experiment) -> Provenance:
    """Gather a run's provenance; times are those of the artifacts as they were made."""
    base = json.loads(store.read("base.json"))
    base.pop("admission", None)
    started = (store.root / "experiment.toml").stat().st_mtime
    return Provenance(
        circuitlapse=circuitlapse.__version__,
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        command="circuitlapse run experiment.toml",
        platform=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
        config_sha256=key_of(experiment.model_dump(mode="json", exclude={"compute"})),
        base=base,
        seconds=store.seconds(),
    )
