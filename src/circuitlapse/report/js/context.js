// Fine-tuning a subset of the parameters, k-shot prompting of the base, and shortcuts.
const controlColours = { everything: "--new", old_circuit: "--old", mlps: "--mlps",
  biases: "--good", rank_1: "--recruited", random_set: "--muted" };
const controlNames = { everything: "everything", old_circuit: "old-task heads", mlps: "MLPs",
  biases: "biases", rank_1: "rank 1", random_set: "random heads" };

const elicitableChart = (() => {
  let charts = [];

  function curvesOf(rows, measure) {
    const found = [];
    for (const [key, some] of d3.group(rows, (row) => `${row.control}/${row.repeat}`)) {
      const control = some[0].control, random = control === "random_set";
      const size = some[0].n_parameters;
      const first = random ? some[0].repeat === d3.min(rows.filter((row) =>
        row.control === control), (row) => row.repeat) : true;
      found.push({
        key, colour: controlColours[control] ?? "--ink", faint: random,
        name: first ? `${controlNames[control] ?? control}${size && control !== "everything"
          ? ` (${d3.format(".2~s")(size)})` : ""}` : "",
        points: d3.sort(some, (row) => row.step).map((row) => [row.step, ...row[measure]]),
      });
    }
    return d3.sort(found, (curve) => (curve.faint ? 0 : 1));
  }

  const chart = evidenceChart("elicitable", {
    draw(root, all) {
      charts = [];
      const rows = mine(all);
      const trained = rows.filter((row) => row.step !== null);
      const shown = rows.filter((row) => row.step === null);
      const box = d3.select(root).append("div").attr("class", "two").node();
      const { width } = panels(box, 2, 440);
      const of = (measure) => fixedDomain(all.map((row) => row[measure]));
      if (trained.length)
        for (const [measure, title, domain, right] of [
          ["logit_diff", "Logit difference by step", of("logit_diff"), 138],
          ["candidate_accuracy", "Accuracy over the candidates by step", [0, 1], 138]])
          charts.push(curveChart(box, { width, height: 250, right, title, domain,
            label: `${title}, with a subset of the parameters trained`,
            curves: curvesOf(trained, measure) }));
      if (shown.length) {
        const examples = d3.sort(shown, (row) => row.examples);
        for (const [measure, title, domain] of [
          ["logit_diff", "Logit difference by number of examples", of("logit_diff")],
          ["candidate_accuracy", "Accuracy by number of examples", [0, 1]]])
          curveChart(box, { width, height: 170, right: 138, title, domain,
            label: `${title}, k-shot prompting of the base`,
            xScale: (left, edge) => d3.scaleLinear([0, examples.at(-1).examples || 1],
              [left, edge]),
            xTicks: examples.map((row) => row.examples),
            curves: [{ name: "base, k-shot", colour: "--old", dots: true,
              points: examples.map((row) => [row.examples, ...row[measure]]) }] });
      }
      const not_reported = [...new Set(rows.map((row) => row.not_reported).filter(Boolean))];
      if (not_reported.length) note(root, `Not measured: ${not_reported.join("; ")}.`);
      const late = [...d3.group(trained, (row) => `${row.control}/${row.repeat}`).values()]
        .filter(([row]) => row.control !== "random_set")
        .map(([row]) => `${controlNames[row.control] ?? row.control} ${row.step_of_90 ?? "never"}`);
      if (late.length) note(root, `First step with 90 % of the improvement: ${late.join(", ")}.`);
      for (const each of charts) each.step();
      return rows.length;
    },
  });
  return chart && { ...chart, step: () => charts.forEach((each) => each.step()) };
})();

// Shortcut heuristics compared with the models, on the same prompts.
const shortcutsChart = evidenceChart("shortcuts", {
  redrawsOn: ["run"],
  draw(root, all) {
    const rows = mine(all);
    const splits = Object.keys(data.names.splits).filter((split) =>
      rows.some((row) => row.split === split));
    const model = (role, split, end) => data.behaviour[`${state.run}/${roles[role].name}/${split}`]
      ?.candidate_accuracy.map((column) => column.at(end));
    const lines = ["new", "old"].flatMap((role) => [
      { label: `${roles[role].title}, ${role} task`, heading: true },
      { label: "fine-tuned model", role, of: (split) => model(role, split, -1), main: true },
      { label: "base", role, of: (split) => model(role, split, 0) },
      ...d3.sort(new Set(rows.filter((row) => row.task === roles[role].name)
        .map((row) => row.rule)), (rule) => -d3.max(rows, (row) =>
        (row.rule === rule && row.task === roles[role].name ? row.accuracy[0] : 0)))
        .map((rule) => ({ label: rule, role, rule })),
    ]);
    rangeChart(root, {
      labelWidth: 190, lineHeight: 22,
      label: "Accuracy of the models and of shortcuts",
      rows: lines,
      panels: splits.map((split) => ({
        title: data.names.splits[split], domain: [0, 1],
        cells: lines.map(({ role, of, rule }) => {
          if (of) {
            const value = of(split);
            return value && { value, colour: role, details: [["accuracy", interval(value)]] };
          }
          const row = rule && rows.find((each) => each.rule === rule && each.split === split
            && each.task === roles[role].name);
          return row && { value: row.accuracy, colour: "no_heads", details: [
            ["accuracy", interval(row.accuracy)], ["fine-tuned minus shortcut", interval(row.margin)],
            ["prompts", String(row.n)]] };
        }),
      })),
    });
    return rows.length;
  },
});
