"""The pages of a calibration and of a survey, without scripts."""

from typing import Any

from markupsafe import Markup

from circuitlapse.records.calibration import CalibratedOrganism, Calibration
from circuitlapse.records.survey import Survey
from circuitlapse.report.pages import page
from circuitlapse.report.pages.page import environment
from circuitlapse.report.series.counts import counts, mark, place


def render_calibration(found: Calibration) -> str:
    """Return the page's HTML: self-contained, and nothing in it can run or load anything."""
    style = page.style()
    scored = [each for each in found.organisms if each.scored]
    low, high = _domain(found.organisms)
    return (
        environment()
        .get_template("calibration.html.j2")
        .render(
            found=found,
            **counts(found),
            causes=list(dict.fromkeys(c for each in found.organisms for c in each.shares or {})),
            scored=[_organism(each, low, high) for each in scored],
            rest=[_organism(each, low, high) for each in found.organisms if not each.scored],
            zero=place(0.0, low, high),
            one=place(1.0, low, high),
            csp=page.content_security_policy([], [style]),
            style=Markup(style),
        )
    )


def _domain(organisms: list[CalibratedOrganism]) -> tuple[float, float]:
    """One scale for the shares of all organisms; it holds 0 and 1."""
    given = [share for each in organisms for share in (each.shares or {}).values()]
    low = min([0.0, *(share.low for share in given)])
    return low, max([1.0, *(share.high for share in given)])


def _organism(each: CalibratedOrganism, low: float, high: float) -> dict[str, Any]:
    shares = {cause: mark(share, low, high) for cause, share in (each.shares or {}).items()}
    return {"organism": each, "shares": shares}


def render_survey(survey: Survey) -> str:
    """Return the page's HTML: self-contained, and nothing in it can run or load anything."""
    style = page.style()
    return (
        environment()
        .get_template("survey.html.j2")
        .render(
            survey=survey,
            csp=page.content_security_policy([], [style]),
            style=Markup(style),
        )
    )
