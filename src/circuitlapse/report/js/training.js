// How training went, of this recipe and compared over all recipes of a grid.
const trainingChart = (() => {
  let charts = [];
  const splits = { train: ["training", "--ink"], validation: ["held out", "--new"],
    old_task: ["old task", "--old"] };
  const measures = [["loss", "Loss, nats per token"], ["accuracy", "Accuracy"],
    ["end_of_text", "End of text predicted"]];

  const chart = evidenceChart("training", {
    draw(root, all) {
      charts = [];
      const box = d3.select(root).append("div").attr("class", "two").node();
      const { across, width } = panels(box, 3, 290);
      const rows = mine(all);
      measures.forEach(([measure, title], place) => {
        const named = place % across === across - 1 || place === measures.length - 1;
        const curves = Object.entries(splits).flatMap(([split, [name, colour]]) =>
          [...d3.group(all.filter((row) => row.split === split), (row) => row.run)]
            .map(([run, some]) => ({ run, name: run === rows[0]?.run ? name : "", colour,
              faint: run !== rows[0]?.run, dashed: split === "old_task",
              points: d3.sort(some, (row) => row.step).map((row) => [row.step, ...row[measure]]) })));
        charts.push(curveChart(box, {
          width: width + (named ? 60 : -30), height: 200 + 13 * flagsOf(rows).length,
          right: named ? 106 : 16, title, names: named, flags: flagsOf(rows),
          curves: d3.sort(curves, (curve) => !curve.faint), label: `${title} by training step`,
          domain: measure === "loss" ? fixedDomain(all.map((row) => row.loss)) : [0, 1],
        }));
      });
      for (const each of charts) each.step();
      return rows.length;
    },
  });
  return chart && { ...chart, step: () => charts.forEach((each) => each.step()) };
})();

// Steps by the warning that they have.
function flagsOf(rows) {
  const found = d3.rollup(rows.flatMap((row) => row.flags.split(",")
    .filter(Boolean).map((flag) => [flag, row.step])), (pairs) => [...new Set(pairs.map(([, step]) => step))],
  ([flag]) => flag);
  return [...found].map(([name, steps]) => ({ name: name.replaceAll("_", " "), steps }));
}

const recipesChart = (() => {
  const root = optional("recipes-chart");
  if (!root) return null;
  let charts = [];

  function draw() {
    root.replaceChildren();
    charts = [];
    const { width } = panels(root, 3, 300);
    const all = [...new Set(data.recipes.flatMap((recipe) =>
      recipe.flags.map(({ name }) => name)))];
    for (const recipe of data.recipes) {
      const panel = d3.select(root).append("div").attr("class", "panel still")
        .classed("pinned", recipe.here);
      const title = panel.append("p").attr("class", "recipe");
      title.append(recipe.here ? "b" : "a").attr("href", recipe.here ? null : recipe.report)
        .text(recipe.name);
      title.append("span").text(recipe.label ? ` ${recipe.label.replaceAll("_", " ")}` : "");
      charts.push(curveChart(panel.node(), {
        width: width - 4, height: 132 + 13 * all.length, right: all.length ? 104 : 12, domain: [0, 1],
        label: `Accuracy on both tasks over training, recipe ${recipe.name}`,
        flags: all.map((name) => ({ name, steps: recipe.flags.find((flag) =>
          flag.name === name)?.steps ?? [] })),
        curves: recipe.curves.map(({ role, points }) =>
          ({ colour: `--${role}`, dashed: role === "old", points })),
      }));
    }
    step();
  }

  const step = () => charts.forEach((each) => each.step());
  const csv = () => data.recipes.flatMap((recipe) => recipe.curves.flatMap(({ role, seed, points }) =>
    points.map(([at, ...accuracy]) => ({ recipe: recipe.name, finetune_seed: seed,
      task: roles[role].name, step: at, ...asColumns("candidate_accuracy", accuracy),
      flags: recipe.flags.filter(({ steps }) => steps.includes(at)).map(({ name }) => name)
        .join(" ") }))));
  return { draw, step, csv, name: "recipes", redrawsOn: [] };
})();
