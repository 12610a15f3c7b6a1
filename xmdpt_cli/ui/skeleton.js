// A skeleton editor: its state, its display and its buttons. Gradio calls this with `element`,
// `props` and `watch`, followed by pointer.js and views.js as one function. It serves two editors:
// - the pose editor: props.value is one pose as JSON text (see skeleton.py);
// - the person editor (data-person): props.value is JSON text of the source images with the
//   keypoints of each (see person_views.py); the skeleton lies over the image that is shown.
const root = element.querySelector(".skeleton");
const svg = root.querySelector(".frame");
const lines = [...svg.querySelectorAll(".limbs line")];
const groups = [...svg.querySelectorAll(".joint")];
const limbs = JSON.parse(root.dataset.limbs);
const mirrored = JSON.parse(root.dataset.mirrored); // for each joint, the joint of the other side
const isPerson = "person" in root.dataset;
const presets = [...root.querySelectorAll(".preset")];
const status = root.querySelector(".chosen");
const button = (name) => root.querySelector(`[data-do="${name}"]`);
const FRAME = { width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
const SCALE = 1.06; // per press of Larger
const MOST_UNDO = 200;
const ALL = groups.length, ENOUGH = Number(root.dataset.enough); // joints; see person_views.py
const NEAR = 2e-4; // two roundings of a place

const standing = JSON.parse(presets[0].dataset.pose);
let views = []; // {key, places, placed, width, height, image, name, note}
let at = 0; // index of the view that is shown
let box = { ...FRAME }; // size of the view in units of the viewBox
let places = standing.map((place) => place || [0.5, 0.1]); // a missing joint has a place too
let present = standing.map((place) => place !== null);
let placed = false; // false: the standard pose is shown, and no keypoints are known
let whole = false; // false: joints were dragged one by one, and the others may be off the person
let chosen = -1; // index of the chosen joint
let sent = null; // the value that Python has
const histories = new Map(); // key of a view -> {past, future, start}

const clamp = (value) => Math.min(1, Math.max(0, value));
const pose = () =>
  placed ? places.map((p, i) => (present[i] ? p.map((v) => +v.toFixed(4)) : null)) : null;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const view = () => views[at];
const keypoints = ({ places, placed }) => ({ places, placed });

// The number of joints that were placed: all, or those dragged away from the standard pose.
function count() {
  if (whole) return ALL;
  const start = fitted(standing);
  const far = (place, i) => place.some((value, axis) => Math.abs(value - start[i][axis]) > NEAR);
  const moved = places.filter((place, i) => present[i] && far(place, i)).length;
  return moved === present.filter(Boolean).length ? ALL : moved;
}

// A pose of the upright 176 x 256 frame, fitted into an image of another shape.
function fitted(pose) {
  if (!isPerson) return pose;
  const wide = Math.min(1, (box.height * FRAME.width) / FRAME.height / box.width);
  const high = Math.min(1, (box.width * FRAME.height) / FRAME.width / box.height);
  return pose.map(
    (place) => place && [0.5 + (place[0] - 0.5) * wide, 0.5 + (place[1] - 0.5) * high]
  );
}

function history() {
  const key = view().key;
  if (!histories.has(key))
    histories.set(key, { past: [], future: [], start: keypoints(view()) });
  return histories.get(key);
}

// --- display ---
function show() {
  const moved = count();
  root.classList.toggle("unplaced", !placed || moved < ENOUGH);
  showJoints();
  const preset = showPresets();
  const number = present.filter(Boolean).length;
  const partly = placed && moved < ALL;
  let text = placed ? `${preset}${number} of ${ALL} joints` : "Not placed yet";
  if (partly) text = `${moved} of ${ALL} joints moved: drag the others onto the person too`;
  const name = chosen >= 0 ? groups[chosen].dataset.label : "";
  status.textContent = name && partly ? `${name}; ${text}` : name || text;
  showButtons();
}

function showJoints() {
  groups.forEach((group, i) => {
    const [x, y] = places[i];
    group.setAttribute("transform", `translate(${x * box.width} ${y * box.height})`);
    group.classList.toggle("missing", !present[i]);
    group.classList.toggle("chosen", i === chosen);
    const where = `${Math.round(x * 100)} % across, ${Math.round(y * 100)} % down`;
    const label = group.dataset.label;
    group.setAttribute("aria-label", `${label}, ${present[i] ? where : "missing"}`);
  });
  lines.forEach((line, i) => {
    const [a, b] = limbs[i];
    line.style.display = present[a] && present[b] ? "" : "none";
    line.setAttribute("x1", places[a][0] * box.width);
    line.setAttribute("y1", places[a][1] * box.height);
    line.setAttribute("x2", places[b][0] * box.width);
    line.setAttribute("y2", places[b][1] * box.height);
  });
}

// Marks the preset that is shown unchanged, and returns its name for the status.
function showPresets() {
  const current = pose();
  let name = "";
  presets.forEach((preset) => {
    const pressed = !isPerson && same(JSON.parse(preset.dataset.pose), current);
    preset.setAttribute("aria-pressed", String(pressed));
    if (pressed) name = `${preset.title}, `;
  });
  return name;
}

function showButtons() {
  const label = chosen >= 0 && !present[chosen] ? "Show" : "Hide";
  button("toggle").disabled = chosen < 0;
  button("toggle").textContent = label;
  button("toggle").setAttribute("aria-label", label);
  const { past, future } = view() ? history() : { past: [], future: [] };
  // aria-disabled: a button that is disabled loses the focus, and Ctrl-Z would be lost with it
  button("undo").setAttribute("aria-disabled", String(!past.length));
  button("redo").setAttribute("aria-disabled", String(!future.length));
}

// --- changes ---
// Shows a pose (null: not known, so the standard one) without sending it to Python.
function showPose(pose, count = ALL) {
  placed = pose !== null;
  whole = placed && count >= ALL;
  (pose || fitted(standing)).forEach((place, i) => {
    present[i] = place !== null;
    if (place !== null) places[i] = [...place];
  });
  show();
}

// After every action of the user: it can be undone, and Python gets the pose.
function commit() {
  const before = keypoints(view()), after = { places: pose(), placed: count() };
  if (!same(before.places, after.places) || (placed && before.placed !== after.placed)) {
    const { past } = history();
    past.push(before);
    if (past.length > MOST_UNDO) past.shift();
    history().future = [];
    Object.assign(view(), after);
  }
  show();
  send();
}

function send() {
  if (isPerson) showTabs();
  sent = JSON.stringify(isPerson ? { views, at } : pose());
  props.value = sent;
}

function travel(from, to) {
  const steps = history();
  if (!steps[from].length) return;
  steps[to].push(keypoints(view()));
  Object.assign(view(), steps[from].pop());
  chosen = -1;
  showPose(view().places, view().placed);
  send();
}
const undo = () => travel("past", "future");
const redo = () => travel("future", "past");

function replace(pose, count = ALL) {
  chosen = -1;
  showPose(pose, count);
  commit();
}

function choose(joint) {
  chosen = joint;
  show();
}

function toggle(joint) {
  present[joint] = !present[joint];
  placed = true;
  commit();
}

function moveJoint(joint, x, y) {
  places[joint] = [clamp(x), clamp(y)];
  placed = true;
  show();
}

// Moves the whole figure, as far as it stays in the frame.
function moveFigure(initial, dx, dy) {
  const shown = initial.filter((_, i) => present[i]);
  const within = (delta, axis) => {
    const values = shown.map((place) => place[axis]);
    return Math.min(1 - Math.max(...values), Math.max(-Math.min(...values), delta));
  };
  const [x, y] = [within(dx, 0), within(dy, 1)];
  places = initial.map((place) => [place[0] + x, place[1] + y]);
  placed = whole = true;
  show();
}

function scale(factor) {
  const shown = places.filter((_, i) => present[i]);
  if (!shown.length) return;
  const middle = [0, 1].map((axis) => {
    const values = shown.map((place) => place[axis]);
    return (Math.min(...values) + Math.max(...values)) / 2;
  });
  const scaled = places.map((place) => place.map((v, axis) => middle[axis] + (v - middle[axis]) * factor));
  if (scaled.some((place, i) => present[i] && place.some((v) => v < 0 || v > 1))) return;
  places = scaled;
  placed = whole = true;
  commit();
}

// --- buttons ---
presets.forEach((preset) =>
  preset.addEventListener("click", () => {
    const pose = fitted(JSON.parse(preset.dataset.pose));
    if (!isPerson) history().start = { places: pose, placed: ALL };
    replace(pose);
  })
);

// Saves a pose file as `xmdpt sample --pose` reads it.
function save() {
  const { width, height } = isPerson ? view() : FRAME;
  const round = (value) => +value.toFixed(3);
  const joints = places.map(([x, y], i) =>
    present[i] ? [round(x * width), round(y * height)] : null
  );
  const text = JSON.stringify({ keypoints: joints, width, height });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = isPerson ? `${view().name.replace(/\.[^.]*$/, "")}-keypoints.json` : "pose.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Fills the window: the joints of a person far away are close together.
function enlarge(on) {
  if (!button("enlarge")) return;
  const large = root.classList.toggle("large", on);
  button("enlarge").textContent = large ? "Done" : "\u2922";
  button("enlarge").setAttribute("aria-label", large ? "Done" : "Enlarge");
}

const actions = {
  enlarge: () => enlarge(),
  undo,
  redo,
  save,
  toggle: () => toggle(chosen),
  reset: () => replace(history().start.places, history().start.placed),
  smaller: () => scale(1 / SCALE),
  larger: () => scale(SCALE),
  mirror: () => {
    places = mirrored.map((other) => [1 - places[other][0], places[other][1]]);
    present = mirrored.map((other) => present[other]);
    chosen = -1;
    commit();
  },
};
for (const [name, action] of Object.entries(actions))
  button(name)?.addEventListener("click", action);
