# The few tasks people run here: `just`, or copy the line.

# run everything CI runs, in a clean environment
ci:
    bash .ci/run

test *args:
    python -m pytest {{args}}

lint:
    ruff check .
    ruff format --check .
    mypy

format:
    ruff format .
    ruff check --fix .

# build the documentation in site/, with warnings as errors
docs:
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# show the documentation at http://127.0.0.1:8000 while it is edited
docs-serve:
    NO_MKDOCS_2_WARNING=1 mkdocs serve

demo:
    xmdpt demo
