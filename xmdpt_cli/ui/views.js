// The views of the person editor, and the answers of Python to both editors; see skeleton.js.
const isPlaced = ({ places, placed }) => places !== null && !(placed < ENOUGH);

function showTabs() {
  const tabs = root.querySelector(".tabs");
  tabs.hidden = views.length < 2;
  const focused = [...tabs.children].indexOf(document.activeElement);
  tabs.replaceChildren(
    ...views.map((view, i) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.textContent = `${i + 1}${isPlaced(view) ? "" : " •"}`;
      tab.title = view.name;
      tab.setAttribute("aria-label", `Image ${i + 1}${isPlaced(view) ? "" : ", not placed"}`);
      tab.setAttribute("aria-pressed", String(i === at));
      tab.addEventListener("click", () => {
        at = i;
        chosen = -1;
        showView();
        send();
      });
      return tab;
    })
  );
  tabs.children[focused]?.focus();
}

// Shows the image of the view and the skeleton over it.
function showView() {
  element.querySelector(".placer").hidden = !view();
  if (!view()) return;
  const { width, height, image, note } = view();
  const unit = Math.min(FRAME.width / width, FRAME.height / height);
  box = { width: width * unit, height: height * unit };
  svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  svg.style.aspectRatio = `${width} / ${height}`;
  svg.style.width = `${(100 * box.width) / FRAME.width}%`;
  const background = svg.querySelector("image");
  background.setAttribute("href", image);
  background.setAttribute("width", box.width);
  background.setAttribute("height", box.height);
  root.querySelector(".hint").textContent = note;
  showTabs();
  showPose(view().places, view().placed);
}

// Replaces the keypoints of a view by loaded ones. Undo restores the previous ones.
function load(view, loaded) {
  const steps = histories.get(view.key);
  if (steps && !same(view.places, loaded.places)) {
    steps.past.push(keypoints(view));
    Object.assign(steps, { future: [], start: keypoints(loaded) });
  }
  Object.assign(view, loaded);
}

// Python answers with the views as they were when it was called. The user may have edited them since
// then: only new views and loaded keypoints are taken from the answer.
function merge(answer) {
  const shown = view()?.key;
  let next = shown;
  const loaded = answer.views.filter(({ loaded }) => loaded);
  const known = new Map(views.map((view) => [view.key, view]));
  if (loaded.length)
    loaded.filter(({ key }) => known.has(key)).forEach((view) => load(known.get(view.key), view));
  else
    views = answer.views.map((view) => {
      if (known.has(view.key)) return known.get(view.key);
      histories.delete(view.key);
      next = view.key;
      return view;
    });
  at = Math.max(0, views.findIndex(({ key }) => key === next));
  if (loaded.length || view()?.key !== shown) chosen = -1;
}

// An answer of Python: keypoints of a file or a photograph, or other images.
const postponed = []; // answers that arrived during a drag
function receive(answer) {
  if (drag) return postponed.push(answer);
  if (isPerson) {
    merge(answer);
    showView();
  } else {
    chosen = -1;
    load(view(), { places: answer, placed: ALL });
    showPose(answer);
  }
  send();
}
watch("value", () => {
  if (props.value && props.value !== sent) receive(JSON.parse(props.value));
});
if (isPerson) showView();
else {
  views = [{ key: "pose", places: JSON.parse(props.value), placed: ALL }];
  showPose(view().places);
}
