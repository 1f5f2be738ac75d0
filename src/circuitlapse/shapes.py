"""Array types for signatures: ``Float[Tensor, "prompts pos d_model"]``.

The shape strings are checked while the tests run (jaxtyping's import hook with beartype) and cost
nothing otherwise. This module imports no torch, so that torch-free code can name numpy shapes.

Axis names used throughout: ``prompts``, ``pos`` (token position), ``layers``, ``heads``,
``d_model``, ``d_head``, ``vocab``, ``writers`` and ``readers`` (the graph's two sides), ``nodes``
(heads and MLPs in graph order).
"""

from jaxtyping import Bool, Float, Int

__all__ = ["Bool", "Float", "Int"]
