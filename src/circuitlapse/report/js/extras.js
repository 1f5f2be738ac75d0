// Further evidence: any table of values with intervals, at the step nearest to the slider's.
const extras = data.extras.map(({ name, measures, rows: all }) => {
  const root = document.getElementById(`extra-${name}`);
  const most = 30;
  const several = new Set(all.map((row) => row.step)).size > 1;
  const size = (row) => Math.abs(row.values[measures[0]]?.[0] ?? 0);

  function draw() {
    root.replaceChildren();
    const { rows } = rowsAtStep(all);
    const shown = rows.length > most
      ? d3.sort(rows, (row) => -size(row)).slice(0, most) : rows;
    const measured = measures.filter((measure) =>
      shown.some((row) => row.values[measure][0] !== null)).slice(0, 3);
    if (!measured.length) {
      d3.select(root).append("p").attr("class", "note").text("This seed has no such rows.");
      return;
    }
    const longest = d3.max(shown, (row) => row.label.length) ?? 0;
    rangeChart(root, {
      labelWidth: Math.min(420, 40 + 6.4 * longest),
      label: `${name.replaceAll("_", " ")}; the table below has the numbers`,
      lineHeight: 22,
      rows: shown,
      panels: measured.map((measure) => {
        const [low, high] = columnExtent(all.map((row) => [...row.values[measure], ...row.null]));
        return {
          title: measure.replaceAll("_", " "), domain: [Math.min(0, low ?? 0), Math.max(0, high)],
          cells: shown.map((row) => ({ value: row.values[measure], colour: "new",
            details: [[measure.replaceAll("_", " "), interval(row.values[measure])]],
            under(svg, x, y) {
              const [from, to] = row.null;
              if (typeof from === "number" && measure === measured[0])
                svg.append("rect").attr("class", "null").attr("x", x(from)).attr("y", y - 7)
                  .attr("width", Math.max(1, x(to) - x(from))).attr("height", 14);
            } })),
        };
      }),
    });
  }

  const csv = () => all.map(({ run, step, label, values }) => Object.assign(
    { ...data.runs[run], step, label },
    ...measures.map((measure) => asColumns(measure, values[measure]))));
  return { draw, step: several ? draw : undefined, csv, name: `extra-${name}`, redrawsOn: ["run"] };
});
