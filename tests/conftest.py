"""Fixtures that several test files share: a tiny real model, and the cache kept out of the way."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from jaxtyping import config as shapes
from transformers import GPT2Config, GPT2LMHeadModel

import circuitlapse as cl
from circuitlapse.organisms.tokenizer import build_tokenizer
from small_run import small_experiment

# The same examples on every machine, however slow; HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Workers and subprocesses inherit these: no test may reach the network or a user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage: a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUITLAPSE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@contextmanager
def _checks(on: bool) -> Iterator[None]:
    before = shapes.jaxtyping_disable
    shapes.update("jaxtyping_disable", not on)
    yield
    shapes.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """Whole runs without checks of shapes, which would take most of their time.

    Shapes are checked where the functions have their own tests, and in one whole run
    (``finished``).
    """
    with _checks(False):
        yield


@pytest.fixture
def _checked_in_gpt2(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checks of shapes in one family (families.py)."""
    with _checks(request.node.callspec.params["family"] == "gpt2"):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random two-layer GPT-2 and the organism's tokenizer."""
    directory = _shared(tmp_path_factory) / "tiny-model"
    with FileLock(f"{directory}.lock"):
        if not (directory / "tokenizer_config.json").exists():
            _save_tiny_model(directory)
    return directory


@pytest.fixture(scope="session")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> cl.Run:
    """A finished run that nobody changes: made once, for all processes, with checks of shapes."""
    out = _shared(tmp_path_factory) / "finished"
    with FileLock(f"{out}.lock"):
        if not (out / "report.html").exists():
            with _checks(True):  # whichever file asks first
                cl.run_experiment(small_experiment(tiny_model), out)
    return cl.load_run(out)


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that is the same for all processes of a session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _save_tiny_model(directory: Path) -> None:
    tokenizer = build_tokenizer()
    end = tokenizer.get_vocab()["<|endoftext|>"]
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=48,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
