"""Array types for signatures: ``Float[Tensor, "prompts pos d_model"]``.

The tests check the shape strings (jaxtyping's import hook with beartype). This module imports no
torch.

Axis names: ``prompts``, ``pos`` (token position), ``layers``, ``heads``, ``d_model``, ``d_head``,
``vocab``, ``writers`` (source nodes), ``readers`` (destination nodes), ``nodes`` (heads and MLPs in
graph order).
"""

from jaxtyping import Bool, Float, Int

__all__ = ["Bool", "Float", "Int"]
