// Similarity of importances: base and tuned model, old and new task, placebos, an unrelated task.
// The comparison of the base on the old task with the tuned model on the new task comes first.
const overlapPairs = [
  ["base:old", "tuned:new"], ["base:old", "tuned:old"], ["base:new", "tuned:new"],
  ["tuned:old", "tuned:new"], ["base:old", "base:new"], ["base:new", "tuned:old"],
];
const sideWords = (side) => side.replace(":", ", ");
const pairWords = (pair) => pair.map(sideWords).join(" · ");
const isPair = (row, [a, b]) =>
  (row.left === a && row.right === b) || (row.left === b && row.right === a);
const overlapRows = d3.group(data.overlap, (row) => `${row.run}/${row.family}`, (row) => row.unit);
const overlapLowest = d3.rollup([...data.overlap, ...data.comparisons], (rows) => Math.min(0,
  columnExtent(rows.map((row) => [...row.value, ...row.null.slice(0, 3)]))[0] ?? 0),
(row) => row.measure);
const overlapDomain = () => [overlapLowest.get(state.measure) ?? 0, 1];
const overlapCells = ({ run, value, null: none, ...row }) => ({ ...data.runs[run], ...row,
  ...asColumns("value", value), null_mean: none[0], null_low: none[1], null_high: none[2] });

const overlapChart = (() => {
  const root = document.getElementById("overlap-chart");

  // Nodes are compared at every checkpoint, edges at the last only.
  function now() {
    const own = overlapRows.get(`${state.run}/${state.family}`);
    return ["nodes", "edges"].map((unit) => rowsAtStep(own?.get(unit) ?? []));
  }

  function draw() {
    root.replaceChildren();
    const [nodes, edges] = now();
    const words = nodes.step === edges.step || edges.step === undefined ? `${nodes.step ?? "–"}`
      : `${nodes.step} (edges: ${edges.step})`;
    d3.selectAll("#overlap-step").text(words);
    const rows = [...nodes.rows, ...edges.rows];
    const shown = rows.filter((row) => row.measure === state.measure);
    const pairs = overlapPairs.filter((pair) => shown.some((row) => isPair(row, pair)));
    if (!pairs.length) note(root, `No overlap was recorded for the counterfactual “${state.family}”.`);
    else
      rangeChart(root, {
        labelWidth: 172,
        label: "Similarity of circuits with interval and null; the table below has all numbers",
        rows: pairs.map((pair) => ({ label: pairWords(pair), main: pair === overlapPairs[0] })),
        panels: ["nodes", "edges"].filter((unit) => shown.some((row) => row.unit === unit))
          .map((unit) => ({
            title: { nodes: "Nodes (heads and MLPs)", edges: "Edges" }[unit] ?? unit,
            domain: overlapDomain(),
            cells: pairs.map((pair) => {
              const row = shown.find((each) => each.unit === unit && isPair(each, pair));
              return row && cell(row, pair === overlapPairs[0]);
            }),
          })),
      });
    if (numbers.open) fill(rows);
  }

  // The table below has every measure and is filled only when it is open.
  const numbers = document.getElementById("overlap-numbers");
  numbers.addEventListener("toggle", () => numbers.open
    && fill(now().flatMap(({ rows }) => rows)));

  function fill(rows) {
    fillRows("#overlap-rows", [...rows].sort((a, b) => d3.ascending(a.unit, b.unit)
      || d3.ascending(a.measure, b.measure)).map((row) => [
      row.unit, data.names.measures[row.measure] ?? row.measure, sideWords(row.left),
      sideWords(row.right), row.not_reported ?? interval(row.value), interval(row.null),
      number(row.p, threeDecimals),
    ]), 4);
  }

  function cell(row, main) {
    return {
      value: row.value, colour: main ? "new" : "old", null: row.null,
      details: [["value", interval(row.value)],
        ["null", interval(row.null)], ["p under the null", number(row.p, threeDecimals)]],
    };
  }

  // Redrawn with the slider only if there is more than one step to show.
  const several = new Set(data.overlap.map((row) => row.step)).size > 1;
  const csv = () => [...data.overlap, ...data.comparisons].map(overlapCells);
  return { draw, step: several ? draw : undefined, csv, name: "overlap",
    redrawsOn: ["run", "family", "measure"] };
})();

const overlapTime = (() => {
  const root = document.getElementById("overlap-time");
  let chart = null;

  function draw() {
    root.replaceChildren();
    chart = null;
    const rows = data.overlap.filter((row) => row.unit === "nodes" && row.run === state.run
      && row.family === state.family && row.measure === state.measure);
    const curves = [...overlapPairs].reverse().map((pair) => {
      const found = d3.sort(rows.filter((row) => isPair(row, pair) && row.value[0] !== null),
        (row) => row.step);
      const main = pair === overlapPairs[0];
      return { name: pairWords(pair), colour: main ? "--new" : pair === overlapPairs[1] ? "--old"
        : "--muted", faint: !main && pair !== overlapPairs[1], band: main,
      points: found.map((row) => [row.step, ...row.value]), rows: found };
    }).filter(({ points }) => points.length > 1);
    showFigure(root, curves.length > 0);
    if (!curves.length) return;
    const main = curves.at(-1);
    chart = curveChart(root, {
      width: root.clientWidth, height: 230, right: 190, domain: overlapDomain(), curves,
      title: `${data.names.measures[state.measure]} of node importances over training`,
      label: "Similarity of node importances over training steps",
      under: { areas: [main.rows.map((row) => [row.step, row.null[1], row.null[2]])] },
    });
    chart.step();
  }

  const csv = () => data.overlap.filter((row) => row.unit === "nodes").map(overlapCells);
  return { draw, step: () => chart?.step(), csv, name: "overlap-over-time",
    redrawsOn: ["run", "family", "measure"] };
})();

// Overlap of the base with placebos and with an unrelated task.
const overlapCompared = (() => {
  const root = document.getElementById("overlap-compared");
  const titles = { placebo: "after a placebo", unrelated_task: "unrelated task" };

  function words({ compared_with, right }) {
    const [model, task] = right.split(":");
    const kind = model.replace(/-\d+$/, "").replaceAll("_", " ");
    return compared_with === "placebo" ? `${kind}, ${task}` : `${task} in the ${model === "tuned" ? "tuned model" : model}`;
  }

  function draw() {
    root.replaceChildren();
    const rows = mine(data.comparisons.filter((row) => row.measure === state.measure
      && (row.family === state.family
        || !data.comparisons.some((each) => each.family === state.family))));
    showFigure(root, rows.length > 0);
    if (!rows.length) return;
    const lasts = rowsAtStep(data.overlap.filter((row) => row.family === state.family
      && row.unit === "nodes" && row.measure === state.measure));
    const main = lasts.rows.find((row) => isPair(row, overlapPairs[0]));
    const lines = [];
    for (const left of ["base:old", "tuned:new"]) {
      const own = rows.filter((row) => row.left === left);
      if (!own.length) continue;
      lines.push({ label: `${sideWords(left)}, compared with`, heading: true });
      if (main) lines.push({ label: left === "base:old" ? "tuned, new" : "base, old", row: main,
        main: true });
      for (const kind of Object.keys(titles))
        for (const [label, some] of d3.group(own.filter((row) => row.compared_with === kind), words))
          lines.push({ label, some });
    }
    rangeChart(root, {
      labelWidth: 210, lineHeight: 22, numbers: 190,
      label: "Similarity to placebos and an unrelated task",
      rows: lines,
      panels: [{
        title: data.names.measures[state.measure], domain: overlapDomain(),
        cells: lines.map(({ row, some }) => {
          if (row) return { value: row.value, null: row.null, colour: "new",
            details: [["value", interval(row.value)]] };
          if (!some) return null;
          if (some.length === 1) return { value: some[0].value, null: some[0].null, colour: "old",
            details: [["value", interval(some[0].value)]] };
          const values = some.map((each) => each.value[0]);
          return { points: values, colour: "old", details: [["draws", String(values.length)]],
            text: `${number(d3.mean(values))}, ${number(d3.min(values))} to ${
              number(d3.max(values))}` };
        }),
      }],
    });
  }

  const csv = () => data.comparisons.map(overlapCells);
  return { draw, csv, name: "overlap-compared", redrawsOn: ["run", "family", "measure"] };
})();
