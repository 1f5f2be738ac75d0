"""The pages of a calibration and of a survey, without scripts."""

from markupsafe import Markup

from circuitlapse.records.calibration import DECIDING, Calibration
from circuitlapse.records.survey import Survey
from circuitlapse.report.pages import page
from circuitlapse.report.pages.page import environment
from circuitlapse.report.series.counts import counts


def render_calibration(found: Calibration) -> str:
    """Return the page's HTML: self-contained, and nothing in it can run or load anything."""
    style = page.style()
    return (
        environment()
        .get_template("calibration.html.j2")
        .render(
            found=found,
            **counts(found),
            measures=DECIDING,
            csp=page.content_security_policy([], [style]),
            style=Markup(style),
        )
    )


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
