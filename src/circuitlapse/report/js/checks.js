// The table of head changes, faithfulness and invariance checks.
const changesTable = (() => {
  const columns = ["base_old", "tuned_old", "base_new", "tuned_new", "placebo_old"];
  const size = (row) => d3.max(columns.slice(0, 4), (name) => Math.abs(row[name][0] ?? 0));

  function draw() {
    const body = d3.select("#head-changes-rows");
    const order = [...headChanges()].sort((a, b) => (a.category === "unused") - (b.category === "unused")
      || size(b) - size(a));
    const rows = body.selectAll("tr").data(order).join("tr").html("")
      .attr("class", (row) => (row.category === "unused" ? "faint" : null));
    rows.append("th").attr("scope", "row").append("button").attr("type", "button")
      .attr("class", "plain").attr("title", "Pin this head")
      .text((row) => data.nodes[nodeIndex.get(row.node)]?.label ?? row.node)
      .on("click", (_, row) => togglePin(row.node));
    const category = rows.append("td");
    category.append("span").attr("class", "sign").text((row) => categorySign(row.category));
    category.append("span").text((row) => row.category);
    rows.selectAll("td.num").data((row) => columns.map((name) => row[name])).join("td")
      .attr("class", "num").text((triple) => interval(triple));
    if (!order.length)
      body.append("tr").append("td").attr("colspan", 7)
        .text(`No changes were recorded for the counterfactual “${state.family}”.`);
    pin();
  }

  function pin() {
    d3.selectAll("#head-changes-rows tr").classed("pinned", (row) => row?.node === state.head);
  }

  const csv = () => headChanges().map(({ node, category, ...effects }) => Object.assign({ node, category,
    counterfactual: state.family }, ...columns.map((name) => asColumns(name, effects[name]))));
  return { draw, pin, csv, isEmpty: () => !headChanges().length, name: "head_changes",
    redrawsOn: ["run", "family"] };
})();

const faithfulnessChart = (() => {
  const root = document.getElementById("faithfulness-chart");
  let panelsDrawn = [];

  function draw() {
    root.replaceChildren();
    panelsDrawn = [];
    const curves = roleNames.map((role) => [role, curve(role)]).filter(([, found]) => found);
    if (!curves.length) {
      d3.select(root).append("p").attr("class", "note")
        .text(`No faithfulness was recorded for the counterfactual “${state.family}”.`);
      return;
    }
    const [low, high] = columnExtent(
      data.runs.flatMap((_, run) => roleNames.map((role) => curve(role, run)))
        .filter(Boolean).map((each) => each.values.flat()));
    const { width } = panels(root, 2, 440);
    const height = 210, left = 38, right = width - 22, top = 26, bottom = height - 36;
    const x = d3.scaleLog([data.circuit_sizes[0], data.circuit_sizes.at(-1)], [left, right]);
    const y = d3.scaleLinear([Math.min(0, low ?? 0), Math.max(1, high ?? 1)], [bottom, top]).nice();
    const line = d3.line((point) => x(point[0]), (point) => y(point[1]));
    for (const [role, found] of curves) {
      const svg = drawing(root, width, height, `Faithfulness by circuit size, ${roles[role].title}`);
      svg.append("text").attr("class", `panel-title text-${role}`).attr("x", left).attr("y", 14)
        .text(roles[role].title);
      leftAxis(svg, y, left, right, 5);
      const decades = data.circuit_sizes.filter((each) =>
        Math.abs(Math.log10(each) - Math.round(Math.log10(each))) < 1e-6);
      bottomAxis(svg, x, bottom, decades.length > 1 ? decades : data.circuit_sizes, percent);
      svg.append("text").attr("class", "axis-title").attr("x", right).attr("y", height - 4)
        .attr("text-anchor", "end").text("edges kept");
      svg.append("line").attr("class", "whole").attr("x1", left).attr("x2", right)
        .attr("y1", y(1)).attr("y2", y(1));
      svg.append("path").attr("class", `line line-${role} base`).attr("d", line(points(found, 0)));
      panelsDrawn.push({
        role, found, line,
        now: svg.append("path").attr("class", `line line-${role}`),
        dots: svg.append("g"), x, y,
        reason: svg.append("text").attr("class", "not-reported").attr("x", (left + right) / 2)
          .attr("y", (top + bottom) / 2).attr("text-anchor", "middle"),
      });
    }
    step();
  }

  function curve(role, run = state.run) {
    return data.faithfulness_curves[`${run}/${roles[role].name}/${state.family}`];
  }

  function points(found, place) {
    return d3.zip(data.circuit_sizes, found.values[place]).filter(([, value]) => value !== null);
  }

  function step() {
    for (const { role, found, line, now, dots, reason, x, y } of panelsDrawn) {
      const shown = points(found, state.step);
      now.attr("d", line(shown));
      dots.selectAll("circle").data(shown).join("circle").attr("class", `fill-${role}`)
        .attr("r", 3).attr("cx", ([fraction]) => x(fraction)).attr("cy", ([, value]) => y(value));
      reason.text(shown.length ? "" : (found.not_reported[state.step] ?? "not measured at this step"));
    }
  }

  const csv = () => Object.entries(data.faithfulness_curves).flatMap(([key, found]) => {
    const [run, task, ...counterfactual] = key.split("/");
    return data.steps.flatMap((now, at) => data.circuit_sizes.map((fraction, place) => ({
      ...data.runs[run], task, counterfactual: counterfactual.join("/"), step: now, fraction,
      edges: found.edges[place], faithfulness: found.values[at][place],
      not_reported: found.not_reported[at] })));
  });
  return { draw, step, csv, name: "faithfulness", redrawsOn: ["run", "family"] };
})();

const invarianceChart = (() => {
  const root = document.getElementById("invariance-chart");
  let markers = [];
  let x;

  function draw() {
    root.replaceChildren();
    markers = [];
    const found = Object.entries(data.invariance).map(([key, columns]) => {
      const [run, task, ...check] = key.split("/");
      return { run: Number(run), task, check: check.join("/").replaceAll("_", " "), columns };
    });
    const mine = found.filter((each) => each.run === state.run)
      .sort((a, b) => d3.ascending(a.task, b.task) || d3.ascending(a.check, b.check));
    if (!mine.length)
      d3.select(root).append("p").attr("class", "note").text("No invariance check was recorded.");
    const [low, high] = columnExtent(found.map((each) => each.columns.flat()));
    const { width } = panels(root, 3, 260);
    const height = 136, left = 40, right = width - 10, top = 24, bottom = height - 20;
    x = stepScale(left, right);
    const y = d3.scaleLinear([Math.min(0, low ?? 0), Math.max(0, high ?? 1)], [bottom, top])
      .nice(3);
    for (const { task, check, columns } of mine) {
      const role = task === roles.old.name ? "old" : "new";
      const title = `${roles[role].title}, ${check}`;
      const panel = d3.select(root).append("div").attr("class", "panel still");
      const svg = drawing(panel.node(), width, height, `Sensitivity to ${title} over training`);
      svg.append("text").attr("class", "panel-title").attr("x", left).attr("y", 14).text(title);
      leftAxis(svg, y, left, right, 3);
      bottomAxis(svg, x, bottom, 4);
      lineWithBand(svg, columns, x, y, role);
      markers.push(stepMarker(svg, top, bottom));
    }
    step();
  }

  function step() {
    for (const marker of markers) moveMarker(marker, x);
  }

  const csv = () => Object.entries(data.invariance).flatMap(([key, columns]) => {
    const [run, task, ...check] = key.split("/");
    return data.steps.map((now, at) => ({ ...data.runs[run], task, check: check.join("/"),
      step: now, ...asColumns("mean_abs_effect", columns.map((column) => column[at])) }));
  });
  return { draw, step, csv, name: "invariance", redrawsOn: ["run"] };
})();
