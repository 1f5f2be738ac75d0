// Looking numbers up, for the state's seed and corruption unless told otherwise.
const roles = Object.fromEntries(data.tasks.map((task) => [task.role, task]));
const nodeCount = data.nodes.length;
const nodeIndex = new Map(data.nodes.map((node, index) => [node.id, index]));
const isHead = (node) => node.head >= 0;

function effects(role, run = state.run, family = state.family) {
  return data.effects[`${run}/${roles[role].name}/${family}`] ?? null;
}

// [effect, low, high, attribution] of one node at one step, or null where none was measured; where
// only the attribution was, the others are null.
function effectAt(role, node, step = state.step) {
  const columns = effects(role);
  if (!columns) return null;
  const found = columns.map((column) => column[step * nodeCount + node]);
  return found.every((value) => value === null) ? null : found;
}

function difference(node, step = state.step) {
  const old = effectAt("old", node, step);
  const now = effectAt("new", node, step);
  return old && now && old[0] !== null && now[0] !== null ? now[0] - old[0] : null;
}

function behaviour(role, run = state.run) {
  return data.behaviour[`${run}/${roles[role].name}/${state.split}`]?.[state.metric] ?? null;
}

function fates() {
  return data.fates[`${state.run}/${state.family}`] ?? [];
}

function fateSign(fate) {
  return data.names.fates[fate]?.[0] ?? fate.slice(0, 1);
}

function nodeName(node) {
  return isHead(node) ? `Head ${node.label}` : node.label;
}

// Rows of one seed at the step nearest to the slider's, among the steps that have rows.
function rowsAtStep(rows) {
  const mine = rows.filter((row) => row.run === state.run);
  const now = data.steps[state.step];
  const steps = [...new Set(mine.map((row) => row.step))];
  const step = d3.least(steps, (a, b) => Math.abs(a - now) - Math.abs(b - now));
  return { step, rows: mine.filter((row) => row.step === step) };
}

// The largest size of a head's effect or difference anywhere in the run: the colour scale's end.
// An early MLP can matter many times more than any head, which would leave all heads pale.
const largestEffect = (() => {
  let largest = 0;
  for (const [key, columns] of Object.entries(data.effects)) {
    const [run, task, ...family] = key.split("/");
    const other = task === roles.old.name
      ? data.effects[[run, roles.new.name, ...family].join("/")] : null;
    columns[0].forEach((value, place) => {
      if (!isHead(data.nodes[place % data.nodes.length])) return;
      largest = Math.max(largest, Math.abs(value ?? 0));
      const against = other?.[0][place];
      if (value !== null && against !== null && against !== undefined)
        largest = Math.max(largest, Math.abs(against - value));
    });
  }
  return largest || 1;
})();
