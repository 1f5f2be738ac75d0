"""Clean and corrupt prompts as tensors, the engine's only input.

Prompts are padded on the right. Under a causal mask no real token attends to the padding, so the
engine needs no attention mask, and absolute positions are those of the unpadded prompt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.prompts.validate_tensors import (
    check_answers,
    check_ids,
    check_is_tensor,
    check_rows,
    first_tokens,
    named_as,
    real_tokens,
    shifted_position,
)
from circuitlapse.shapes import Bool, Int


@dataclass(frozen=True)
class PromptPairs:
    """Pairs of token sequences of equal length, with the answers and distractors of their metric.

    Attributes:
        clean: Token ids, ``[prompts, pos]``, padded on the right. An answer of several tokens has
            all but its last appended to its prompt.
        corrupt: The same prompts with one causal variable changed, ``[prompts, pos]``.
        lengths: Tokens in each prompt, ``[prompts]``; its last token is at ``lengths - 1``.
        answers: The right next token after the clean prompt, ``[prompts]``.
        distractors: The wrong candidates, ``[prompts, distractors]``, −1 where there are fewer.
        positions: Token index of each named position in the clean prompt, ``[prompts]`` each.
        continuations: The answers' further tokens, ``[prompts, more]``, −1 after their ends; empty
            if every answer is one token.
        also: Other right next tokens, ``[prompts, also]``, −1 where there are fewer; empty if every
            prompt has one right answer.
        distractor_continuations: The distractors' further tokens, ``[prompts, distractors, more]``,
            −1 after their ends; empty if every distractor is one token.
    """

    clean: Int[Tensor, "prompts pos"]
    corrupt: Int[Tensor, "prompts pos"]
    lengths: Int[Tensor, " prompts"]
    answers: Int[Tensor, " prompts"]
    distractors: Int[Tensor, "prompts distractors"]
    positions: Mapping[str, Int[Tensor, " prompts"]] = field(default_factory=dict)
    continuations: Int[Tensor, "_ more"] = field(
        default_factory=lambda: torch.empty(0, 0, dtype=torch.long)
    )
    also: Int[Tensor, "_ also"] = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    distractor_continuations: Int[Tensor, "_ distractors further"] = field(
        default_factory=lambda: torch.empty(0, 0, 0, dtype=torch.long)
    )

    def __post_init__(self) -> None:
        """Fill in empty continuations and other answers."""
        for name in ("continuations", "also", "distractor_continuations"):
            rows = self.distractors if name == "distractor_continuations" else self.answers
            if getattr(self, name).shape[-1] == 0:
                object.__setattr__(self, name, self.answers.new_empty(*rows.shape, 0))

    @classmethod
    def from_tensors(
        cls,
        clean: Tensor,
        corrupt: Tensor,
        answers: Tensor,
        distractors: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Mapping[str, Tensor] | None = None,
        also: Tensor | None = None,
        distractor_continuations: Tensor | None = None,
    ) -> "PromptPairs":
        """Check tensors of token ids and bring them into right-padded form.

        Args:
            clean: Token ids, ``[prompts, pos]``.
            corrupt: Token ids of the same shape.
            answers: ``[prompts]``, or ``[prompts, tokens]`` for answers of several tokens, the
                shorter ones filled up with −1.
            distractors: ``[prompts, distractors]``, or ``[prompts]`` for one each, filled up with
                −1; None where the metric needs none.
            attention_mask: ``[prompts, pos]``, 1 at real tokens; either side may be padded.
                Without it every position is a real token.
            positions: Named token indices into ``clean`` as given, ``[prompts]`` each.
            also: Other right answers of one token, ``[prompts, also]``, filled up with −1.
            distractor_continuations: Further tokens of distractors that have several,
                ``[prompts, distractors, more]``, filled up with −1.

        Raises:
            CircuitlapseError: If shapes disagree, ids are not tensors of integers, the mask is not
                one run of ones per row, an answer is among its own distractors or given twice, or
                one of several right answers has several tokens.
        """
        given = {"clean": clean, "corrupt": corrupt, "answers": answers}
        optional = {
            "distractors": distractors,
            "also": also,
            "distractor_continuations": distractor_continuations,
        }
        given |= {name: ids for name, ids in optional.items() if ids is not None}
        check_ids(given, positions)
        if attention_mask is not None:
            check_is_tensor("attention_mask", attention_mask)
        # Indexing takes small whole numbers for a mask or not at all, and -1 must stay below 0.
        ids = {name: tensor.long() for name, tensor in given.items()}
        clean, corrupt, answers = ids["clean"], ids["corrupt"], ids["answers"]
        answers = answers[:, None] if answers.ndim == 1 else answers
        distractors = ids.get("distractors", answers[:, :0])
        distractors = distractors[:, None] if distractors.ndim == 1 else distractors
        if clean.shape != corrupt.shape:
            raise CircuitlapseError(
                "clean and corrupt must have the same shape",
                got=f"{tuple(clean.shape)} and {tuple(corrupt.shape)}",
                fix="Pad both alike; a pair's prompts must have equally many tokens",
            )
        n, width = clean.shape
        if n == 0 or width == 0:
            raise CircuitlapseError(
                "there are no prompts", got=tuple(clean.shape), fix="Pass at least one pair"
            )
        also = ids.get("also", answers.new_empty(n, 0))
        further = ids.get("distractor_continuations", answers.new_empty(*distractors.shape, 0))
        where = {named_as(name): index for name, index in (positions or {}).items()}
        check_rows(n, {"answers": answers, "distractors": distractors, "also": also, **where})
        answers, more = first_tokens(answers), answers[:, 1:]
        check_answers(answers, more, also, distractors, further)
        mask = torch.ones_like(clean) if attention_mask is None else attention_mask.to(clean.dtype)
        start, lengths = real_tokens(mask, clean)
        take = (torch.arange(width, device=clean.device) + start[:, None]).clamp(max=width - 1)
        named = {
            name: shifted_position(name, index.long(), start, lengths)
            for name, index in (positions or {}).items()
        }
        clean, corrupt = (
            _appended(tokens.gather(1, take), lengths, answers, more) for tokens in (clean, corrupt)
        )
        return cls(clean, corrupt, lengths, answers, distractors, named, more, also, further)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.clean)

    def __getitem__(self, rows: slice | Tensor) -> "PromptPairs":
        """Select pairs, by a slice or a tensor of row numbers."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> "PromptPairs":
        """Move every tensor to a device."""
        return self._each(lambda tensor: tensor.to(device))

    def trimmed(self) -> "PromptPairs":
        """Drop the positions that are padding in every prompt."""
        width = int(self.logit_positions().max()) + 1
        return replace(self, clean=self.clean[:, :width], corrupt=self.corrupt[:, :width])

    def logit_positions(self) -> Int[Tensor, "prompts tokens"]:
        """Positions whose logits predict each answer's tokens; short answers repeat their last."""
        n_more = (self.continuations >= 0).sum(dim=1, keepdim=True)
        step = torch.arange(1 + self.continuations.shape[1], device=self.lengths.device)
        return (self.lengths - 1)[:, None] + step.minimum(n_more)

    def answer_tokens(self) -> tuple[Int[Tensor, "prompts tokens"], Bool[Tensor, "prompts tokens"]]:
        """Return the answers' tokens in full, padded with 0, and which of them are real."""
        tokens = torch.cat([self.answers[:, None], self.continuations], dim=1)
        return tokens.clamp(min=0), tokens >= 0

    @property
    def is_sequence(self) -> bool:
        """Whether an answer or a distractor has several tokens."""
        return self.continuations.shape[1] > 0 or self.distractor_continuations.shape[2] > 0

    def right(self) -> Int[Tensor, "prompts right"]:
        """First tokens of all right answers, −1 where there are fewer."""
        return torch.cat([self.answers[:, None], self.also], dim=1)

    def answered_by(self, distractor: int) -> "PromptPairs":
        """Replace the answer by one distractor, where there is one."""
        first, more = self.distractors[:, distractor], self.distractor_continuations[:, distractor]
        first = torch.where(first < 0, self.answers, first)
        clean, corrupt = (
            _appended(tokens, self.lengths, first, more) for tokens in (self.clean, self.corrupt)
        )
        also = self.also[:, :0]
        return replace(
            self, clean=clean, corrupt=corrupt, answers=first, continuations=more, also=also
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PromptPairs":
        positions = {name: change(where) for name, where in self.positions.items()}
        names = [one.name for one in fields(self) if one.name != "positions"]
        tensors = {name: change(getattr(self, name)) for name in names}
        return PromptPairs(**tensors, positions=positions)

    def first_difference(self) -> Int[Tensor, " prompts"]:
        """Index of the first token that differs within each pair; its length where none does.

        Padding does not count.
        """
        index = torch.arange(self.clean.shape[1], device=self.clean.device)
        differs = (self.clean != self.corrupt) & (index < self.lengths[:, None])
        return torch.where(differs.any(dim=1), differs.int().argmax(dim=1), self.lengths)


def _appended(
    tokens: Int[Tensor, "prompts pos"],
    lengths: Int[Tensor, " prompts"],
    answers: Int[Tensor, " prompts"],
    more: Int[Tensor, "prompts more"],
) -> Int[Tensor, "prompts longer"]:
    """Append all tokens of the answers but their last to the prompts."""
    if more.shape[1] == 0:
        return tokens
    given = torch.cat([answers[:, None], more[:, :-1]], dim=1)
    longer = torch.cat([tokens, torch.zeros_like(given)], dim=1)
    where = lengths[:, None] + torch.arange(given.shape[1], device=tokens.device)
    # After a shorter answer's last token there is padding, whose logits are not used.
    return longer.scatter(1, where, given.clamp(min=0))
