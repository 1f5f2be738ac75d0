// Evidence tables: their rows, and functions that their drawings share.
const tableRows = new Map();

function rowsOf(name) {
  if (!tableRows.has(name)) {
    const columns = data.evidence[name]?.columns ?? { run: [] };
    tableRows.set(name, columns.run.map((_, place) =>
      Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values[place]]))));
  }
  return tableRows.get(name);
}

// The chosen seed's rows; those of another where only that one was measured.
function mine(rows) {
  const own = rows.filter((row) => row.run === state.run);
  return own.length || !rows.length ? own : rows.filter((row) => row.run === rows[0].run);
}

// A row as cells of a CSV: an interval has three cells, a null distribution four.
function flatRow({ run, ...row }) {
  return Object.assign({ ...data.runs[run] }, ...Object.entries(row).map(([name, value]) => {
    if (!Array.isArray(value)) return { [name]: value };
    if (name !== "null") return asColumns(name, value);
    const [mean, low, high, p] = value.length === 2 ? [undefined, ...value] : value;
    return { null_mean: mean, null_min: low, null_max: high, p_value: p };
  }));
}

// The root of a drawing that not every page has.
function optional(id) {
  return document.getElementById(id);
}

// A drawing in the section of a table; null if the run has no such table. draw returns whether
// there is anything to draw.
function evidenceChart(name, { draw, step, redrawsOn = ["run"] }) {
  const root = document.getElementById(`chart-${name}`);
  if (!root) return null;
  return {
    name, step, redrawsOn,
    draw() {
      root.replaceChildren();
      if (!draw(root, rowsOf(name))) note(root, "This seed has no row with a value.");
    },
    csv: () => rowsOf(name).map(flatRow),
  };
}

function note(root, text) {
  d3.select(root).append("p").attr("class", "note").text(text);
}

// Show or hide a figure.
function showFigure(root, shown) {
  root.closest("figure").hidden = !shown;
}
