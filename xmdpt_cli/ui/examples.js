// The example people. Gradio calls this with `element`, `props` and `trigger`.
element.querySelectorAll("button").forEach((button) =>
  button.addEventListener("click", () => {
    props.value = button.dataset.number;
    trigger("click");
  })
);
