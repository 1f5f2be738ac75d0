"""A page for one prompt at every checkpoint."""

from typing import Any

from markupsafe import Markup, escape

from circuitlapse.records.documents import Trial
from circuitlapse.report.pages import page
from circuitlapse.report.pages.page import environment
from circuitlapse.report.series.colours import both_themes
from circuitlapse.report.series.grid import number
from circuitlapse.report.series.labels import node_label


def render_trial(trial: Trial) -> str:
    """Return the page's HTML."""
    scripts = [page.theme_script(), page.drawing_library(), page.script("trial")]
    style = page.style()
    return (
        environment()
        .get_template("trial.html.j2")
        .render(
            trial=trial,
            points=points(trial),
            csp=page.content_security_policy(scripts, [style]),
            style=Markup(style),
            scripts=[Markup(text) for text in scripts],
            data=page.packed(_data(trial)),
            words=_words,
        )
    )


def points(trial: Trial) -> list[str]:
    """Names of the logit lens's positions in the model."""
    return [*(f"before layer {layer}" for layer in range(len(trial.lens[0]) - 1)), "at the end"]


def framed(page: str, height: int) -> str:
    """Return an HTML page as a notebook frame, ``height`` pixels high, with separate styles."""
    # An address that holds the page would be blank above Chromium's 2 MiB. Its own origin keeps the
    # page from the notebook, as such an address does.
    return (
        f'<iframe title="circuitlapse" width="100%" height="{height:d}" style="border: 0" '
        f'sandbox="allow-scripts allow-downloads" srcdoc="{escape(page)}"></iframe>'
    )


def _words(found: list[tuple[str, float]]) -> str:
    return ", ".join(f"{token.strip()} {number(value)}" for token, value in found)


def _data(trial: Trial) -> dict[str, Any]:
    return {
        "steps": trial.steps,
        "tokens": trial.tokens,
        "heads": [node_label(head) for head in trial.heads],
        "top": [[[token, round(p, 4)] for token, p in found] for found in trial.top],
        "lens": [[[token, round(p, 4)] for token, p in found] for found in trial.lens],
        "points": points(trial),
        "attention": trial.attention.round(3).tolist(),
        "colours": both_themes(),
    }
