"""The command line: one file a command. Only this package imports Typer and Rich."""
