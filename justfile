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

demo:
    xmdpt demo
