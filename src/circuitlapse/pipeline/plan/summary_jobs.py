"""Jobs made of all fine-tunes that finished: tables, verdicts, and where the numbers come from."""

from circuitlapse.analyses.registry import ANALYSES
from circuitlapse.config.finetune import ONLY
from circuitlapse.pipeline.plan.measurement import Measurement, Plan
from circuitlapse.pipeline.plan.source import constants_behind
from circuitlapse.records.calibration import released
from circuitlapse.records.layout import verdict_path


def _tables(plan: Plan) -> None:
    for analysis in ANALYSES:
        settings = [plan.section(name) for name in analysis.settings]
        plan.add(
            "tables",
            f"table {analysis.name}",
            (f"tables/{analysis.name}.parquet",),
            [*settings, analysis.version, list(analysis.schema)],
            plan.named(*analysis.reads),
            constants=constants_behind(analysis.rows.__module__),
            table=analysis.name,
        )


def _verdicts(plan: Plan) -> None:
    for recipe in plan.experiment.finetune.recipes():
        plan.add(
            "verdicts",
            "verdict" if recipe == ONLY else f"verdict {recipe}",
            (verdict_path(recipe),),
            [plan.section("compare"), released().model_dump(mode="json")],
            plan.named("scores", "placebo_scores", "tables"),
            recipe=recipe,
        )


def _provenance(plan: Plan) -> None:
    needs = plan.named("verdicts")
    plan.add("provenance", "provenance", ("provenance.json",), None, needs)


_HOME = "circuitlapse.pipeline.run.summaries"
TABLE = Measurement("table", _tables, f"{_HOME}:table", summary=True)
VERDICT = Measurement("verdict", _verdicts, f"{_HOME}:verdict", summary=True)
PROVENANCE = Measurement("provenance", _provenance, f"{_HOME}:provenance", summary=True)
