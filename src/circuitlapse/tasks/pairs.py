"""Clean and corrupt prompts as tensors: the only form in which the engine sees a task.

Prompts are padded on the right. Under a causal mask nothing to the right of a prompt's last token
can reach it, so no attention mask is needed anywhere in the engine, and absolute positions stay
what they were in the unpadded prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Int


@dataclass(frozen=True)
class PromptPairs:
    """Pairs of token sequences of equal length, with the answer tokens their metric compares.

    Attributes:
        clean: Token ids, ``[prompts, pos]``, padded on the right.
        corrupt: The same prompts with one causal variable changed, ``[prompts, pos]``.
        lengths: Tokens in each prompt, ``[prompts]``; its last token is at ``lengths - 1``.
        answers: The right next token after the clean prompt, ``[prompts]``.
        distractors: The wrong candidates, ``[prompts, distractors]``.
        positions: Token index of each named position in the clean prompt, ``[prompts]`` each.
    """

    clean: Int[Tensor, "prompts pos"]
    corrupt: Int[Tensor, "prompts pos"]
    lengths: Int[Tensor, " prompts"]
    answers: Int[Tensor, " prompts"]
    distractors: Int[Tensor, "prompts distractors"]
    positions: Mapping[str, Int[Tensor, " prompts"]] = field(default_factory=dict)

    @classmethod
    def from_tensors(
        cls,
        clean: Tensor,
        corrupt: Tensor,
        answers: Tensor,
        distractors: Tensor,
        attention_mask: Tensor | None = None,
        positions: Mapping[str, Tensor] | None = None,
    ) -> "PromptPairs":
        """Check tensors of token ids and bring them into right-padded form.

        Args:
            clean: Token ids, ``[prompts, pos]``.
            corrupt: Token ids of the same shape.
            answers: ``[prompts]``.
            distractors: ``[prompts, distractors]``, or ``[prompts]`` for one each.
            attention_mask: ``[prompts, pos]``, 1 at real tokens; either side may be padded.
                Without it every position is a real token.
            positions: Named token indices into ``clean`` as given, ``[prompts]`` each.

        Raises:
            CircuitlapseError: If shapes disagree, ids are not integers, the mask is not one run of
                ones per row, or an answer is among its own distractors.
        """
        if distractors.ndim == 1:
            distractors = distractors[:, None]
        shapes = {
            "clean": (clean, 2),
            "corrupt": (corrupt, 2),
            "answers": (answers, 1),
            "distractors": (distractors, 2),
        }
        for name, (tensor, ndim) in shapes.items():
            if tensor.ndim != ndim or tensor.is_floating_point() or tensor.dtype == torch.bool:
                raise CircuitlapseError(
                    f"{name} must be a tensor of integers with {ndim} dimension(s)",
                    got=f"{tensor.dtype} of shape {tuple(tensor.shape)}",
                    fix="Pass token ids, not text or logits",
                )
        if clean.shape != corrupt.shape:
            raise CircuitlapseError(
                "clean and corrupt must have the same shape",
                got=f"{tuple(clean.shape)} and {tuple(corrupt.shape)}",
                fix="A pair's prompts must have equally many tokens; pad both alike",
            )
        n, width = clean.shape
        if n == 0 or width == 0:
            raise CircuitlapseError(
                "there are no prompts", got=tuple(clean.shape), fix="Pass at least one pair"
            )
        if len(answers) != n or len(distractors) != n:
            raise CircuitlapseError(
                "answers and distractors must have one row per prompt",
                got=f"{len(answers)} answers and {len(distractors)} distractors for {n} prompts",
            )
        clash = (distractors == answers[:, None]).any(dim=1).nonzero().flatten()
        if len(clash):
            raise CircuitlapseError(
                "an answer is among its own distractors",
                got=f"row {int(clash[0])}",
                fix="Give each prompt one answer and other tokens as distractors",
            )
        mask = torch.ones_like(clean) if attention_mask is None else attention_mask.to(clean.dtype)
        if mask.shape != clean.shape:
            raise CircuitlapseError(
                "attention_mask must have the shape of clean",
                got=f"{tuple(mask.shape)} for {tuple(clean.shape)}",
            )
        lengths = mask.sum(dim=1)
        start = mask.argmax(dim=1)
        index = torch.arange(width, device=clean.device)
        expected = (index >= start[:, None]) & (index < (start + lengths)[:, None])
        wrong = ((mask != expected) | (lengths == 0)[:, None]).any(dim=1).nonzero().flatten()
        if len(wrong):
            raise CircuitlapseError(
                "attention_mask must be one unbroken run of ones in each row",
                got=f"row {int(wrong[0])}: {mask[wrong[0]].tolist()}",
            )
        take = (index + start[:, None]).clamp(max=width - 1)
        named = {}
        for name, where in (positions or {}).items():
            named[name] = where - start
            if bool(((named[name] < 0) | (named[name] >= lengths)).any()):
                raise CircuitlapseError(f"position {name!r} lies outside its prompt")
        return cls(clean.gather(1, take), corrupt.gather(1, take), lengths, answers, distractors,
                   named)  # fmt: skip

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.clean)

    def __getitem__(self, rows: slice | Tensor) -> "PromptPairs":
        """Take some of the pairs, by a slice or a tensor of row numbers."""
        return PromptPairs(
            self.clean[rows], self.corrupt[rows], self.lengths[rows], self.answers[rows],
            self.distractors[rows], {name: where[rows] for name, where in self.positions.items()},
        )  # fmt: skip

    def to(self, device: torch.device | str) -> "PromptPairs":
        """Move every tensor to a device."""
        return PromptPairs(
            self.clean.to(device), self.corrupt.to(device), self.lengths.to(device),
            self.answers.to(device), self.distractors.to(device),
            {name: where.to(device) for name, where in self.positions.items()},
        )  # fmt: skip

    def trimmed(self) -> "PromptPairs":
        """Drop the columns that are padding in every prompt."""
        width = int(self.lengths.max())
        return PromptPairs(self.clean[:, :width], self.corrupt[:, :width], self.lengths,
                           self.answers, self.distractors, self.positions)  # fmt: skip

    def first_difference(self) -> Int[Tensor, " prompts"]:
        """Index of the first token that differs within each pair; its length where none does.

        Padding does not count. Everything left of it is the same in the clean and corrupt runs.
        """
        index = torch.arange(self.clean.shape[1], device=self.clean.device)
        differs = (self.clean != self.corrupt) & (index < self.lengths[:, None])
        return torch.where(differs.any(dim=1), differs.int().argmax(dim=1), self.lengths)
