// Logit lens and direct attribution by layer, over time.
const lensChart = (() => {
  const root = document.getElementById("lens-chart");
  const layerTotals = new Map(); // sums over the heads of a layer
  let drawn = [];

  const components = data.components.filter((name) => !name.startsWith("a"));
  const rowsOf = { lens: data.points.map((_, layer) =>
    (layer === data.points.length - 1 ? "end" : `before ${layer}`)),
  direct: components.flatMap((name) =>
    (name.startsWith("m") ? [`heads ${name.slice(1)}`, `MLP ${name.slice(1)}`] : [name])) };

  function directRow(role, row, step) {
    const name = rowsOf.direct[row];
    if (!name.startsWith("heads")) {
      const found = directAt(role, name.startsWith("MLP") ? `m${name.slice(4)}` : name, step);
      return found?.[0] ?? null;
    }
    const key = `${state.run}/${role}/${name}`;
    if (!layerTotals.has(key)) {
      const heads = data.components.filter((each) => each.startsWith(`a${name.slice(6)}.`));
      layerTotals.set(key, data.steps.map((_, at) => {
        const values = heads.map((head) => directAt(role, head, at)?.[0]);
        return values.some((value) => value === undefined) ? null : d3.sum(values);
      }));
    }
    return layerTotals.get(key)[step];
  }

  const value = {
    lens: (role, row, step) => lensAt(role, row, step)?.[0] ?? null,
    direct: directRow,
  };
  const titles = { lens: "Logit lens", direct: "Direct attribution" };

  function draw() {
    root.replaceChildren();
    drawn = [];
    if (!Object.keys(data.lens).length) {
      d3.select(root).append("p").attr("class", "note").text("No readings were recorded.");
      return;
    }
    const { width } = panels(root, 2, 420);
    for (const kind of ["lens", "direct"]) {
      for (const role of roleNames) {
        const rows = rowsOf[kind];
        const map = heatMap(root, {
          title: `${titles[kind]}, ${roles[role].title}`, role, rows, columns: data.steps, width,
          rowHeight: Math.max(8, Math.min(16, 190 / rows.length)), marker: true,
          every: labelEvery(data.steps.length, width),
        });
        map.colour((row, step) => value[kind](role, row, step), data.largest_reading);
        map.details((row, step) => [`${titles[kind]}, ${rows[row]}, step ${data.steps[step]}`,
          [[roles[role].title, kind === "lens" ? interval(lensAt(role, row, step))
            : number(value.direct(role, row, step)), role]],
          kind === "direct" && rows[row].startsWith("heads") ? "all heads of the layer" : ""]);
        drawn.push(map);
      }
    }
    drawLegend("lens-legend");
    step();
  }

  function step() {
    for (const map of drawn) map.mark(state.step);
  }

  function csv() {
    return roleNames.flatMap((role) => data.steps.flatMap((now, at) => [
      ...data.points.map((component, row) => ({ task: roles[role].name, step: now,
        reading: "logit_lens", component, ...asColumns("value", lensAt(role, row, at)) })),
      ...data.components.map((component) => ({ task: roles[role].name, step: now,
        reading: "direct", component, ...asColumns("value", directAt(role, component, at)) })),
    ]));
  }

  return { draw, step, csv, name: "lens", redrawsOn: ["run"] };
})();
