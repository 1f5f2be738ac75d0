"""A survey as one page, made as the report is, without scripts."""

from markupsafe import Markup

from circuitlapse.records.survey import Survey
from circuitlapse.report import assets
from circuitlapse.report.page import environment


def render_survey(survey: Survey) -> str:
    """Return the page's HTML: self-contained, and nothing in it can run or load anything."""
    style = assets.style()
    return (
        environment()
        .get_template("survey.html.j2")
        .render(
            survey=survey,
            csp=assets.content_security_policy([], [style]),
            style=Markup(style),
        )
    )
