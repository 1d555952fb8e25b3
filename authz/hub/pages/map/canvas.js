// The drawing: nodes and edges on a canvas. It knows no API; what is chosen or pointed at it tells by callbacks.
//
// Nodes stay where they are from one answer to the next. Who is new stands beside its neighbours, until the map is
// arranged anew.

import cytoscape from "../vendor/cytoscape.js";
import { placeLabels } from "./labels.js";
import { stops, withoutCalls } from "./model.js";
import { count } from "../text.js";

//: more edges than this are drawn straight, without names and arrows (those of what is pointed at have them): arrows take
//: half of the time that drawing takes, dashes as much again
const MANY_EDGES = 400;
const LABELLED_EDGES = 70;
const KEPT = "picoseg.places";
const KEPT_BENDS = "picoseg.bends";
const MOST_KEPT = 3000;
const STEP_PX = 60;
const NARROW_PX = 560;
//: a map of few nodes is not drawn larger than this, by what the text around it measures; on a wall it fills the wall
const LARGEST = 1.25;
const WALL_PX = 1700;
const USUAL_TEXT_PX = 14;

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

const tones = { allowed: "good", observed: "watch", denied: "bad" };

function edgeLabel(edge) {
  const parts = edge.calls > edge.denied || !edge.denied ? [edge.calls ? count(edge.calls) : withoutCalls(edge)] : [];
  if (edge.denied) parts.push(`✕ ${count(edge.denied)}`);
  if (edge.plain) parts.push("no TLS");
  if (edge.changes) parts.push(Object.keys(edge.changes).join(", "));
  return parts.join("  ");
}

const percent = (value) => `${Math.min(Math.max(value, 0), 100).toFixed(2)}%`;

function lineOf(edge, colour) {
  const found = stops(edge);
  if (!found.length) return { flat: colour("faint"), style: "dotted" };
  if (found.length === 1) return { flat: colour(tones[found[0][0]]), style: found[0][0] === "denied" ? "dashed" : "solid" };
  return {
    flat: colour(tones[found[0][0]]),
    style: "solid",
    colours: found.flatMap(([name]) => [colour(tones[name]), colour(tones[name])]).join(" "),
    places: found.flatMap(([, from, to]) => [percent(from), percent(to)]).join(" "),
  };
}

function sheet(colour, many, labelled) {
  const own = (name) => (element) => element.data(name);
  const named = labelled ? {} : { label: own("words") };
  return [
    { selector: "node", style: {
      shape: "round-rectangle", width: own("width"), height: own("height"),
      "background-color": colour("surface"), "border-width": 1.4, "border-color": colour("edge"),
      label: own("words"), color: colour("ink"), "font-family": "system-ui, sans-serif", "font-size": 12.5,
      "text-valign": "center", "text-halign": "center", "text-wrap": "wrap", "text-max-width": 260, "line-height": 1.25,
      "min-zoomed-font-size": 4, "overlay-opacity": 0,
    } },
    { selector: "node[kind='third_party']", style: { shape: "cut-rectangle", "border-width": 2, "border-color": colour("accent"), "background-color": colour("third") } },
    { selector: "node[kind='unknown']", style: { "border-style": "dashed", color: colour("muted"), "font-family": "ui-monospace, monospace", "font-size": 11 } },
    { selector: "node[kind='group']", style: { shape: "round-rectangle", "border-width": 3, "border-style": "double", "border-color": colour("edge"), "font-weight": 600 } },
    { selector: "node[state='closing']", style: { "border-color": colour("watch") } },
    { selector: "node[state='opening']", style: { "border-style": "dashed" } },
    { selector: "node[state='ended']", style: { "border-color": colour("bad"), "border-style": "dotted", color: colour("muted") } },
    { selector: "node:selected", style: { "border-color": colour("focus"), "border-width": 3.2 } },
    { selector: "edge", style: {
      width: own("weight"), "line-color": own("flat"), "line-style": own("dash"), "target-arrow-color": own("flat"),
      "curve-style": many ? "straight" : "bezier", "control-point-step-size": 46, "target-arrow-shape": many ? "none" : "triangle", "arrow-scale": 0.85,
      "overlay-opacity": 0, "line-dash-pattern": [7, 4], "font-size": 10.5, color: colour("ink"),
      "font-family": "system-ui, sans-serif", "text-background-color": colour("canvas"), "text-background-opacity": 0.86,
      "text-background-padding": 2, "text-background-shape": "round-rectangle", "min-zoomed-font-size": 6,
      label: labelled ? own("words") : "", opacity: many ? 0.28 : 1,
    } },
    ...(labelled ? [
      { selector: "edge[stands='source']", style: { label: "", "source-label": own("words"), "source-text-offset": own("off") } },
      { selector: "edge[stands='target']", style: { label: "", "target-label": own("words"), "target-text-offset": own("off") } },
    ] : []),
    // among many, what was refused is what one looks for
    { selector: "edge[denied > 0]", style: { opacity: many ? 0.85 : 1, "z-index": 3 } },
    { selector: "edge[bends]", style: { "curve-style": "unbundled-bezier", "edge-distances": "node-position", "control-point-weights": own("weights"), "control-point-distances": own("distances") } },
    { selector: "edge[places]", style: { "line-fill": "linear-gradient", "line-gradient-stop-colors": own("colours"), "line-gradient-stop-positions": own("places"), "target-arrow-color": own("arrow") } },
    { selector: "edge.near", style: { ...named, "z-index": 9, opacity: 1, "target-arrow-shape": "triangle" } },
    { selector: "edge:selected", style: { "underlay-color": colour("focus"), "underlay-opacity": 0.35, "underlay-padding": 5, ...named, "z-index": 10, opacity: 1, "target-arrow-shape": "triangle" } },
    { selector: ".faded", style: { opacity: 0.13 } },
  ];
}

// A bend as cytoscape has it: how far along the line between both ends, and how far beside it.
function beside([fromX, fromY], [toX, toY], points) {
  const [dx, dy] = [toX - fromX, toY - fromY];
  const square = dx * dx + dy * dy || 1;
  const length = Math.sqrt(square);
  const weights = points.map(([x, y]) => ((x - fromX) * dx + (y - fromY) * dy) / square);
  const distances = points.map(([x, y]) => ((y - fromY) * dx - (x - fromX) * dy) / length);
  return distances.some((each) => Math.abs(each) > 6) ? { weights, distances } : null;
}

function kept(name) {
  try {
    return new Map(JSON.parse(localStorage.getItem(name) ?? "[]"));
  } catch {
    return new Map();
  }
}

const measure = document.createElement("canvas").getContext("2d");

function sized(node) {
  const lines = [node.kind === "third_party" ? `⇄ ${node.label}` : node.kind === "unknown" ? `? ${node.label}` : node.label];
  if (node.sub) lines.push(node.sub);
  measure.font = `${node.kind === "group" ? 600 : 400} 12.5px system-ui, sans-serif`;
  const width = Math.max(...lines.map((each) => measure.measureText(each).width));
  return { words: lines.join("\n"), width: Math.round(Math.max(84, width + 30)), height: lines.length > 1 ? 48 : 34 };
}

export class MapCanvas {
  constructor(box, { onEdge, onNode, onPoint }) {
    this.box = box;
    this.direction = box.clientWidth < NARROW_PX ? "TB" : "LR";
    this.places = kept(KEPT + this.direction);
    this.bends = kept(KEPT_BENDS + this.direction);
    this.turn = 0;
    this.shape = null;
    this.fitted = false;
    this.worker = new Worker(new URL("./layout.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.placed(data));
    this.cy = cytoscape({
      container: box, minZoom: 0.08, maxZoom: 3, boxSelectionEnabled: false, selectionType: "single",
      textureOnViewport: true, motionBlur: false, pixelRatio: "auto",
    });
    const { cy } = this;
    cy.on("tap", "edge", ({ target }) => onEdge(target.data()));
    cy.on("tap", "node", ({ target }) => onNode(target.data()));
    cy.on("tap", (event) => event.target === cy && onNode(null));
    cy.on("mouseover", "edge, node", ({ target, renderedPosition }) => {
      box.classList.add("pointing");
      (target.isNode() ? target.connectedEdges() : target).addClass("near");
      onPoint({ ...target.data(), x: renderedPosition.x, y: renderedPosition.y });
    });
    cy.on("mouseout", "edge, node", () => {
      box.classList.remove("pointing");
      cy.edges(".near").removeClass("near");
      onPoint(null);
    });
    cy.on("viewport drag", () => onPoint(null));
    // who has chosen a part of the map keeps it when the box changes; everyone else sees all of it
    cy.on("dragpan pinchzoom scrollzoom", () => {
      this.moved = true;
    });
    cy.on("free", "node", ({ target }) => {
      this.places.set(target.id(), [target.position("x"), target.position("y")]);
      this.keep();
      this.placeLabels();
    });
  }

  // Draws a map; who was there keeps its place.
  show(map) {
    const colour = colours();
    const { cy } = this;
    const many = map.edges.length > MANY_EDGES;
    const labelled = map.edges.length <= LABELLED_EDGES;
    const wanted = new Set();
    cy.batch(() => {
      const fresh = [];
      for (const each of map.nodes) {
        wanted.add(each.id);
        const data = { ...each, ...sized(each) };
        const old = cy.getElementById(each.id);
        if (old.nonempty()) old.data(data);
        else fresh.push({ group: "nodes", data, position: this.position(each.id) });
      }
      for (const each of map.edges) {
        wanted.add(each.id);
        const line = lineOf(each, colour);
        const data = {
          ...each, words: edgeLabel(each), flat: line.flat, dash: many ? "solid" : line.style, colours: line.colours, places: line.places,
          arrow: line.colours?.split(" ").at(-1), weight: Math.min(1.3 + Math.log10(1 + each.calls) * 1.05, 9) * (many ? 0.45 : 1),
        };
        const bend = this.bends.get(each.id);
        if (bend) Object.assign(data, { bends: 1, weights: bend.weights, distances: bend.distances });
        const old = cy.getElementById(each.id);
        if (old.nonempty()) {
          if (!line.places) old.removeData("places colours");
          old.data(data);
        } else fresh.push({ group: "edges", data });
      }
      cy.elements().filter((each) => !wanted.has(each.id())).remove();
      cy.add(fresh);
    });
    const look = `${many}${labelled}${colour("canvas")}`;
    if (look !== this.look) {
      this.look = look;
      cy.style(sheet(colour, many, labelled));
    }
    this.map = map;
    this.labelled = labelled;
    const shape = map.nodes.map(({ id }) => id).sort().join("\n");
    if (shape === this.shape) {
      this.placeLabels();
      return;
    }
    this.shape = shape;
    const missing = map.nodes.filter(({ id }) => !this.places.has(id));
    if (missing.length === 0) this.fitOnce();
    else if (missing.length > map.nodes.length / 3) this.arrange();
    else this.besideNeighbours(missing);
  }

  position(id) {
    const [x, y] = this.places.get(id) ?? [0, 0];
    return { x, y };
  }

  // Works all places out anew.
  arrange() {
    this.turn += 1;
    this.fitted = false;
    this.moved = false;
    this.box.dataset.arranged = "no";
    this.asked = this.map.edges.map(({ id, source, target }) => ({ id, source, target }));
    this.worker.postMessage({
      turn: this.turn,
      direction: this.direction,
      nodes: this.cy.nodes().map((each) => ({ id: each.id(), width: each.data("width"), height: each.data("height") })),
      edges: this.asked.map(({ source, target }) => [source, target]),
    });
  }

  placed({ turn, places, bends }) {
    if (turn !== this.turn) return;
    for (const [id, x, y] of places) this.places.set(id, [x, y]);
    this.bends.clear();
    this.asked.forEach(({ id, source, target }, at) => {
      const bend = bends[at]?.length ? beside(this.places.get(source), this.places.get(target), bends[at]) : null;
      if (bend) this.bends.set(id, bend);
    });
    this.cy.batch(() => {
      this.cy.nodes().positions((each) => this.position(each.id()));
      this.cy.edges().forEach((each) => {
        const bend = this.bends.get(each.id());
        if (bend) each.data({ bends: 1, ...bend });
        else each.removeData("bends weights distances");
      });
    });
    this.keep();
    this.fitOnce();
  }

  besideNeighbours(missing) {
    for (const { id } of missing) {
      const element = this.cy.getElementById(id);
      const near = element.neighborhood("node").filter((each) => this.places.has(each.id()));
      const box = this.cy.nodes().filter((each) => this.places.has(each.id())).boundingBox();
      const into = near.nonempty() && element.outgoers("node").nonempty();
      let x = near.nonempty() ? near.reduce((sum, each) => sum + each.position("x"), 0) / near.length + (into ? -220 : 220) : box.x1;
      let y = near.nonempty() ? near.reduce((sum, each) => sum + each.position("y"), 0) / near.length : box.y2 + 70;
      const taken = [...this.places.values()];
      while (taken.some(([a, b]) => Math.abs(a - x) < 150 && Math.abs(b - y) < 50)) y += 60;
      if (!Number.isFinite(x)) x = y = 0;
      this.places.set(id, [x, y]);
      element.position({ x, y });
    }
    this.keep();
    this.fitOnce();
  }

  keep() {
    try {
      localStorage.setItem(KEPT + this.direction, JSON.stringify([...this.places.entries()].slice(-MOST_KEPT)));
      localStorage.setItem(KEPT_BENDS + this.direction, JSON.stringify([...this.bends.entries()].slice(-MOST_KEPT)));
    } catch {
      // storage is full or forbidden: places hold as long as the page
    }
  }

  placeLabels() {
    if (this.labelled) placeLabels(this.cy);
  }

  fitOnce() {
    this.placeLabels();
    if (!this.fitted) this.fit();
    this.fitted = true;
    this.box.dataset.arranged = "yes";
  }

  fit() {
    this.moved = false;
    this.cy.resize();
    this.cy.fit(undefined, this.direction === "LR" ? 44 : 14);
    const wide = Math.max(1, this.cy.width() / WALL_PX);
    const largest = (LARGEST * wide * Number.parseFloat(getComputedStyle(document.documentElement).fontSize)) / USUAL_TEXT_PX;
    if (this.cy.zoom() > largest) {
      this.cy.zoom(largest);
      this.cy.center();
    }
  }

  zoomBy(factor) {
    this.moved = true;
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 } });
  }

  press(key) {
    const moves = { ArrowLeft: [STEP_PX, 0], ArrowRight: [-STEP_PX, 0], ArrowUp: [0, STEP_PX], ArrowDown: [0, -STEP_PX] };
    if (moves[key]) {
      this.moved = true;
      this.cy.panBy({ x: moves[key][0], y: moves[key][1] });
    }
    else if (key === "+" || key === "=") this.zoomBy(1.25);
    else if (key === "-") this.zoomBy(0.8);
    else if (key === "0") this.fit();
    else return false;
    return true;
  }

  // Marks what is chosen: an edge by its ends, a node by its name.
  choose(id) {
    this.cy.batch(() => {
      this.cy.elements(":selected").unselect();
      if (id) this.cy.getElementById(id).select();
    });
  }

  // Leaves bright what `matches` says, and what is next to it; null: everything.
  light(matches) {
    const { cy } = this;
    cy.batch(() => {
      cy.elements(".faded").removeClass("faded");
      if (!matches) return;
      const bright = cy.nodes().filter((each) => matches(each.data()));
      cy.elements().difference(bright.closedNeighborhood()).addClass("faded");
    });
  }

  recolour() {
    if (this.map) this.show(this.map);
  }

  resize() {
    if (this.moved || !this.fitted) this.cy.resize();
    else this.fit();
  }

  destroy() {
    this.worker.terminate();
    this.cy.destroy();
  }
}
