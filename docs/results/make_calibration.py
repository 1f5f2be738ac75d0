"""Write the table of calibration.md from the record."""

from collections.abc import Iterator
from pathlib import Path

from circuitlapse.records.calibration import OUTCOMES, Calibration, Outcome, Tally, released

PAGE = Path(__file__).with_name("calibration.md")
START, END = "<!-- Written by make_calibration.py. -->\n", "<!-- End of what is written. -->\n"


def table(found: Calibration) -> Iterator[str]:
    """The counts by mechanism, then what was not right."""
    yield f"\n**Scored {len(found.candidates)} of {found.planned}.**\n\n"
    yield "| row | mechanism | right label | of | right | wrong | undetermined | open | refused "
    yield "| right carrier | without bits: right | wrong | undetermined | open |\n"
    yield f"|{'---|' * 14}\n"
    rows = [*found.rows, None]
    with_bits = [*found.tallies(), found.total()]
    without = [*found.tallies(with_bits=False), found.total(with_bits=False)]
    for row, each, other in zip(rows, with_bits, without, strict=True):
        says = each.says if row is None else f"{row.says}{' (held out)' if row.held_out else ''}"
        first = [str(row.number), says, row.truth] if row else ["", "*all*", ""]
        carrier = "" if each.carrier is None else str(each.carrier)
        shares = [_share(each, outcome) for outcome in OUTCOMES]
        rest = [str(getattr(other, outcome)) for outcome in OUTCOMES]
        cells = [*first, str(each.planned), *shares, str(each.refused), carrier, *rest]
        yield f"| {' | '.join(cells)} |\n"
    for each in found.candidates:
        if each.answer is not None and not each.refused and each.answer.outcome == "wrong":
            yield f"\n- wrong: `{each.name}`: `{each.answer.label}`. {each.answer.reason}"
    yield "\n"


def _share(found: Tally, outcome: Outcome) -> str:
    share, count = found.share(outcome), getattr(found, outcome)
    return str(count) if share is None else f"{count} [{share.low:.2f}, {share.high:.2f}]"


def page(text: str) -> str:
    """The page with its table made anew."""
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    return head + start + "".join(table(released())) + "\n" + end + tail


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
