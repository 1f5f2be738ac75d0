// The improvement by group of components: grafts of weights, and patches of activations.
const { groups: groupNames, quantities } = data.names;
const groupName = (group) => groupNames[group] ?? group.replaceAll("_", " ");

function groupDetails(row) {
  const [mean, low, high, p] = row.null ?? [];
  return [["improvement, logits", interval(row.improvement)], ["share of the improvement", interval(row.share)],
    ...(row.parameters ? [["parameters", d3.format(",")(row.parameters)]] : []),
    ...(row.accuracy !== undefined ? [["accuracy", number(row.accuracy)]] : []),
    ...((mean ?? null) !== null
      ? [["random groups", `${number(mean)}, ${number(low)} to ${number(high)}`],
        ["p", number(p, threeDecimals)]] : [])];
}

// Values that an axis must include: the null without its p.
const rangesOf = (row) => [row.improvement, (row.null ?? []).slice(0, 3)];

function groupCell(row, colour = row.group) {
  return { value: row.improvement, colour, null: row.null, details: groupDetails(row) };
}

const graftChart = (() => {
  const root = document.getElementById("graft-chart");
  const wholes = data.grafts.filter((row) => row.origin === "base" && row.part === "whole");
  const improvementOf = (rows) => d3.sum(rows.filter((row) =>
    row.quantity === "shapley" && row.improvement[0] !== null), (row) => row.improvement[0]) || undefined;
  let drawn;

  function draw() {
    if (!root) return; // the run has no grafts
    root.replaceChildren();
    const { step, rows } = rowsAtStep(wholes);
    drawn = step;
    d3.select("#graft-step").text(step ?? "–");
    const has = (key) => (name) => rows.some((row) => row[key] === name);
    const shown = Object.keys(groupNames).filter(has("group"));
    const whole = improvementOf(rows);
    const domain = fixedDomain(wholes.flatMap(rangesOf), whole);
    rangeChart(root, {
      labelWidth: 142,
      label: "Improvement by group of parameters: add-one-in, leave-one-out and Shapley; the table "
        + "below has all numbers",
      rows: shown.map((group) => ({ label: groupName(group) })),
      panels: Object.keys(quantities).filter(has("quantity")).map((quantity) => ({
        title: quantities[quantity], domain, whole,
        cells: shown.map((group) => {
          const row = rows.find((each) => each.group === group && each.quantity === quantity);
          return row && groupCell(row);
        }),
      })),
    });
    fillRows("#graft-rows", rows.map((row) => [
      groupName(row.group), quantities[row.quantity] ?? row.quantity,
      d3.format(",")(row.parameters), interval(row.improvement), interval(row.share),
    ]), 2);
  }

  // Most steps of the slider are nearest to the graft that is drawn already.
  const step = () => rowsAtStep(wholes).step !== drawn && draw();
  const several = new Set(wholes.map((row) => row.step)).size > 1;
  const csv = () => data.grafts.map(flatRow);
  return { draw, step: several ? step : undefined, csv, name: "grafts", redrawsOn: ["run"] };
})();

// Grafts of the query and key weights, and of the value and output weights, alone.
const graftPartChart = (() => {
  const root = document.getElementById("graft-part-chart");
  const parts = { whole: "all weights", qk: "queries, keys", ov: "values, output" };
  // Whole groups are grafted along the run, parts of their weights only at its end.
  const divided = data.grafts.filter((row) => row.origin === "base" && data.grafts.some((other) =>
    other.part !== "whole" && other.group === row.group && other.step === row.step));

  function draw() {
    if (!root) return;
    root.replaceChildren();
    const { rows } = rowsAtStep(divided.filter((row) => row.quantity !== "shapley"));
    showFigure(root, rows.length > 0);
    if (!rows.length) return;
    const shown = Object.keys(groupNames).filter((group) =>
      rows.some((row) => row.group === group)).flatMap((group) => [
      { label: groupName(group), heading: true },
      ...Object.keys(parts).map((part) => ({ label: parts[part], group, part })),
    ]);
    rangeChart(root, {
      labelWidth: 150, lineHeight: 21,
      label: "Improvement by group of heads and part of their weights",
      rows: shown,
      panels: ["add_one_in", "leave_one_out"].map((quantity) => ({
        title: quantities[quantity],
        domain: fixedDomain(divided.flatMap(rangesOf)),
        cells: shown.map(({ group, part }) => {
          const row = rows.find((each) => each.group === group && each.part === part
            && each.quantity === quantity);
          return row && { ...groupCell(row), title: `${groupName(group)}, ${parts[part]}` };
        }),
      })),
    });
  }

  const csv = () => divided.map(flatRow);
  return { draw, csv, name: "graft-parts", redrawsOn: ["run"] };
})();

// Grafts into the rescaled base: the shares of the label.
const rescaledChart = (() => {
  const root = document.getElementById("rescaled-chart");
  const all = data.grafts.filter((row) => row.origin === "rescaled_base");
  const names = { output_scales: "rescaled base (elicited)", non_negative_scales: "scales not negative" };

  function draw() {
    if (!root) return;
    root.replaceChildren();
    const { rows } = rowsAtStep(all);
    showFigure(root, rows.length > 0);
    if (!rows.length) return;
    const lines = [...Object.keys(names), ...Object.keys(groupNames)].map((group) =>
      rows.find((row) => row.group === group && row.quantity
        === (group in names ? "add_one_in" : "shapley"))).filter(Boolean);
    const share = (row) => row.share ?? [null, null, null];
    rangeChart(root, {
      labelWidth: 190,
      label: "Improvement of the rescaled base, and Shapley shares of grafts into it",
      rows: lines.map((row) => ({ label: names[row.group] ?? groupName(row.group) })),
      panels: [
        { title: "Improvement, logits", domain: fixedDomain(all.map((row) => row.improvement)),
          cells: lines.map((row) => groupCell(row, row.group in names ? "elicited" : row.group)) },
        { title: "Share of the improvement", domain: fixedDomain(all.map(share), 1), whole: 1,
          cells: lines.map((row) => ({ ...groupCell(row, row.group in names ? "elicited"
            : row.group), value: share(row), null: null })) },
      ],
    });
  }

  const csv = () => all.map(flatRow);
  return { draw, csv, name: "rescaled-grafts", redrawsOn: ["run"] };
})();

const mediationChart = evidenceChart("mediation", {
  draw(root, all) {
    const rows = mine(all);
    const whole = rows.find((row) => row.group === "all heads")?.improvement[0] ?? undefined;
    const shares = all.map((row) => row.share ?? []);
    rangeChart(root, {
      labelWidth: 150,
      label: "Improvement with all other heads frozen to their base activations",
      rows: rows.map((row) => ({ label: groupName(row.group) })),
      panels: [
        { title: "Improvement that remains, logits", whole,
          domain: fixedDomain(all.flatMap(rangesOf), whole),
          cells: rows.map((row) => groupCell(row, row.group.replace(" ", "_"))) },
        { title: "Share of the improvement", domain: fixedDomain(shares, 1), whole: 1,
          cells: rows.map((row) => row.share && ({ ...groupCell(row, row.group.replace(" ", "_")),
            value: row.share, null: null })) },
      ],
    });
    return rows.length;
  },
});

const crosspatchChart = evidenceChart("crosspatch", {
  draw(root, all) {
    const rows = mine(all);
    const positions = [...new Set(rows.map((row) => row.position))];
    const lines = [...new Set(rows.map((row) => row.group))].flatMap((group) => [
      { label: groupName(group), heading: true },
      ...positions.map((position) => ({ label: position.replaceAll("_", " "), group, position })),
    ]);
    const directions = { tuned_into_base: "Tuned activations in the base: improvement",
      base_into_tuned: "Base activations in the tuned model: loss" };
    const domain = fixedDomain(all.flatMap((row) => [row.improvement, row.null.slice(0, 3)]));
    rangeChart(root, {
      labelWidth: 150, lineHeight: 20,
      label: "Improvement from activations of the other model, by group of heads and position",
      rows: lines,
      panels: Object.entries(directions).map(([direction, title]) => ({
        title, domain,
        cells: lines.map(({ group, position }) => {
          const row = rows.find((each) => each.direction === direction && each.group === group
            && each.position === position);
          return row && { ...groupCell(row),
            title: `${groupName(group)}, ${position.replaceAll("_", " ")}` };
        }),
      })),
    });
    return rows.length;
  },
});
