// Tables without a drawing of their own: values with intervals at the step nearest to the slider's.
const drawnTables = new Set(["carriers", "dynamics", "elicitable",
  "training", "shortcuts"]);

const furtherCharts = Object.entries(data.evidence).filter(([name]) => !drawnTables.has(name))
  .map(([name, { keys, measures }]) => {
    const most = 30;
    const size = (row) => Math.abs([row[measures[0]]].flat()[0] ?? 0);
    const triple = (row, measure) => (Array.isArray(row[measure]) ? row[measure]
      : [row[measure], null, null]);
    const last = data.steps.at(-1);
    const label = (row) => keys.map((key) => row[key]).filter((value) => value !== null
      && value !== "").join(" · ");

    function draw(root, all) {
      const { rows } = rowsAtStep(all.map((row) => ({ ...row, step: row.step ?? last })));
      const shown = rows.length > most
        ? d3.sort(rows, (row) => -size(row)).slice(0, most) : rows;
      const measured = measures.filter((measure) =>
        shown.some((row) => triple(row, measure)[0] !== null)).slice(0, 3);
      if (!measured.length) return false;
      rangeChart(root, {
        labelWidth: Math.min(420, 40 + 6.4 * (d3.max(shown, (row) => label(row).length) ?? 0)),
        label: `${name.replaceAll("_", " ")}; the table below has the numbers`,
        lineHeight: 22,
        rows: shown.map((row) => ({ label: label(row) })),
        panels: measured.map((measure, place) => ({
          title: measure.replaceAll("_", " "),
          domain: fixedDomain(all.map((row) => [...triple(row, measure),
            ...(place ? [] : spread(row))])),
          cells: shown.map((row) => ({ value: triple(row, measure), colour: "new",
            null: place === 0 && row.null ? [null, ...spread(row)] : null,
            details: [[measure.replaceAll("_", " "), interval(triple(row, measure))]] })),
        })),
      });
      return true;
    }

    // The ends of a null distribution, with its mean before them or without.
    const spread = (row) => (!row.null ? [] : row.null.length === 2 ? row.null
      : row.null.slice(1, 3));
    const several = new Set(rowsOf(name).map((row) => row.step)).size > 1;
    const chart = evidenceChart(name, { draw });
    return several ? { ...chart, step: chart.draw } : chart;
  });
