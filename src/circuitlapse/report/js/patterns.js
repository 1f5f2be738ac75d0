// A pinned head's attention on an example prompt: the base's beside the slider's step.
const patternChart = (() => {
  const root = document.getElementById("pattern-chart");
  let panelsDrawn = [];
  let absent = null;

  function chosen() {
    const [task, place] = state.example.split("/");
    return { task, place: Number(place), tokens: data.patterns.tokens[task]?.[Number(place)] ?? [] };
  }

  // Of the strongest heads every checkpoint is kept, of all others the base and the last one.
  const { heads, throughout } = data.patterns;
  const last = data.steps.length - 1;
  const isKept = (step) => heads.indexOf(state.head) < throughout || step === 0 || step === last;
  const shownStep = () => (isKept(state.step) ? state.step : last);

  function weight(step, query, key) {
    const { task, place, tokens } = chosen();
    const head = heads.indexOf(state.head);
    if (head < 0 || !isKept(step)) return null;
    const often = head < throughout;
    const text = data.patterns[often ? "weights" : "ends"][`${state.run}/${task}`]?.[place];
    if (!text) return null;
    const row = often ? step * throughout + head
      : (step && 1) * (heads.length - throughout) + head - throughout;
    return weightOf(text, row * (tokens.length * (tokens.length + 1) / 2)
      + query * (query + 1) / 2 + key);
  }

  function draw() {
    root.replaceChildren();
    panelsDrawn = [];
    const node = data.nodes.find((each) => each.id === state.head);
    if (!node || !isHead(node)) return;
    if (!heads.includes(node.id)) {
      note(root, `The page keeps the patterns of the ${heads.length} heads with the largest `
        + "effects; this head’s are in the run’s directory.");
      return;
    }
    absent = d3.select(root).append("p").attr("class", "note").attr("id", "pattern-absent");
    const { tokens } = chosen();
    const longest = 7 * Math.min(14, d3.max(tokens, (token) => token.length) ?? 1) + 14;
    const { width } = panels(root, 2, 420);
    const size = Math.min(20, (width - longest - 4) / tokens.length);
    const side = size * tokens.length;
    const cells = tokens.flatMap((_, query) => d3.range(query + 1).map((key) => [query, key]));
    for (const [now, stepOf] of [[false, () => 0], [true, shownStep]]) {
      const svg = drawing(root, longest + side + 4, 24 + side + longest, "");
      const heading = svg.append("text").attr("class", "panel-title").attr("x", longest)
        .attr("y", 14);
      const short = (token) => (token.length > 14 ? `${token.slice(0, 13)}…` : token);
      tokens.forEach((token, index) => {
        svg.append("text").attr("class", "tick-label").attr("x", longest - 5)
          .attr("y", 24 + (index + 0.5) * size).attr("dy", "0.35em").attr("text-anchor", "end")
          .text(short(token));
        svg.append("text").attr("class", "tick-label").attr("text-anchor", "end").attr("transform",
          `translate(${longest + (index + 0.5) * size + 3},${30 + side}) rotate(-60)`)
          .text(short(token));
      });
      const rects = svg.append("g").selectAll("rect").data(cells).join("rect")
        .attr("x", ([, key]) => longest + key * size).attr("y", ([query]) => 24 + query * size)
        .attr("width", size - 0.7).attr("height", size - 0.7)
        .on("pointerenter", (event, [query, key]) => showTooltip(event.currentTarget,
          `${tokens[query].trim()} → ${tokens[key].trim()}`,
          [["base", number(weight(0, query, key))],
            [`step ${data.steps[shownStep()]}`, number(weight(shownStep(), query, key))]],
          "from query to key"))
        .on("pointerleave", hideTooltip);
      panelsDrawn.push({ svg, rects, stepOf, heading, now });
    }
    step();
  }

  function step() {
    for (const { svg, rects, stepOf, heading, now } of panelsDrawn) {
      const title = now ? `Step ${data.steps[stepOf()]}` : "Base";
      heading.text(title);
      svg.attr("aria-label", `Attention of ${labelOf(state.head)}, ${title.toLowerCase()}: `
        + "queries down, keys across");
      setChanged(rects, "fill", ([query, key]) => {
        const found = weight(stepOf(), query, key);
        return found === null ? "none" : weightColour(found);
      });
    }
    if (!panelsDrawn.length) return;
    absent.property("hidden", isKept(state.step)).text("This head’s pattern at step "
      + `${data.steps[state.step]} is not on the page: it keeps every checkpoint of the ${throughout} `
      + "heads with the largest effects, and of the others the base and the last one, which are "
      + "shown. All are in the run’s directory.");
  }

  function csv() {
    const { tokens } = chosen();
    return tokens.flatMap((query, q) => tokens.slice(0, q + 1).flatMap((key, k) =>
      d3.range(data.steps.length).filter(isKept).map((at) => ({ head: state.head,
        prompt: state.example, step: data.steps[at], query: q, query_token: query, key: k,
        key_token: key, weight: weight(at, q, k) }))));
  }

  return { draw, step, csv, name: "attention", redrawsOn: ["run", "head", "example"] };
})();
