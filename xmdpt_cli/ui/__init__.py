"""The page to try a model on (``xmdpt ui``): the only room that knows Gradio."""
