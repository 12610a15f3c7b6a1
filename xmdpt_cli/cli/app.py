"""The Typer root: registers the commands and maps errors to exit codes.

0 success, 1 a known failure, 2 usage or configuration, 3 a bug in xmdpt, 130 interrupted, 143 ended
by SIGTERM.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from xmdpt_cli import __version__
from xmdpt_cli.cli import (
    bench_parts,
    convert,
    demo,
    distill,
    evaluate,
    finetune_vae,
    prepare,
    presets,
    sample,
    status,
    synth,
    train,
    ui,
)
from xmdpt_cli.cli.console import error, warning
from xmdpt_cli.cli.help import Command, Group, finish
from xmdpt_cli.errors import SharedError, XmdptError, is_out_of_memory
from xmdpt_cli.utils import interrupts
from xmdpt_cli.utils.processes import rank_and_size
from xmdpt_cli.utils.redact import shown
from xmdpt_cli.utils.streams import check_surroundings, prepare_home, prepare_streams

app = typer.Typer(
    name="xmdpt",
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        print(f"xmdpt {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Every option of every command can also be set by an environment variable: "
    "XMDPT_TRAIN_STEPS=1000, XMDPT_PREPARE_ENCODERS=toy."
)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pose-guided person image synthesis: generate an image of a person in a given pose.

    The workflow, run in one folder: prepare, train, sample, evaluate. Each command uses the newest
    result of the previous one. To try it without data, run xmdpt demo. Without a command, xmdpt
    shows the content of this folder and the next command.
    """
    if context.invoked_subcommand is None:
        status.status()


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "prepare": prepare.prepare,
    "finetune-vae": finetune_vae.finetune_vae,
    "train": train.train,
    "distill": distill.distill,
    "sample": sample.sample,
    "evaluate": evaluate.evaluate,
    "status": status.status,
    "ui": ui.ui,
    "convert": convert.convert,
    "presets": presets.presets,
    "synth": synth.synth,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=Command)(_command)
app.command("wardrobe", cls=Command, hidden=True)(synth.wardrobe)
app.add_typer(bench_parts.bench_app, name="bench", cls=Group)


def build() -> Any:
    """The command line, each option with its help panel and its variable."""
    return finish(typer.main.get_command(app))


def main() -> int:
    """Run the command line of this process and return the exit code."""
    prepare_streams()
    arguments = sys.argv[1:]
    if not {"-h", "--help", "--version"} & set(arguments):
        try:
            check_surroundings(arguments)
            rank_and_size()  # raises XmdptError for invalid RANK or WORLD_SIZE
        except XmdptError as err:
            error(err.message, err.hint)
            return err.exit_code
        notice = prepare_home()
        if notice:
            warning(notice)
    return run(arguments)


#: the hint after an interrupt, and the hints of the commands that do not resume
RESUMES = "completed work is kept: run the same command again to resume"
NOT_RESUMED = {"bench": "no measurement was saved", "ui": "the page had not started yet"}


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    with interrupts.listening():
        code = _run(arguments)
        if interrupts.received():  # also if the command ended normally
            return _interrupted(arguments)
    return code


def _interrupted(arguments: list[str]) -> int:
    """Print the error; returns the exit code, 128 + the number of the signal."""
    if os.environ.get("RANK", "0") == "0":
        error("interrupted", NOT_RESUMED.get("".join(arguments[:1]), RESUMES))
    return 128 + (interrupts.received() or signal.SIGINT)


def _run(arguments: list[str]) -> int:
    try:
        code = build().main(args=arguments, prog_name="xmdpt", standalone_mode=False)
        if code == 130:  # Typer makes an exit code of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()  # so that a full disk is an error of this command
        return code if isinstance(code, int) else 0
    except SharedError as err:
        return err.exit_code
    except XmdptError as err:
        if interrupts.received():  # a consequence of the interrupt
            return 130
        error(err.message, err.hint)
        _debug()
        return err.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130 if interrupts.received() else _interrupted(arguments)
    except BrokenPipeError:  # | head
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - nothing may be flushed into the closed pipe
        return 1
    except Exception as err:
        if interrupts.received():
            return 130
        # usage errors of Typer's parser: known by their shape, its classes are not public
        message, code = getattr(err, "format_message", None), getattr(err, "exit_code", None)
        if callable(message) and code == 2:
            error(_usage(message()), _usage_hint(err))
            return 2
        full, named = _is_full_disk(err), isinstance(err, OSError) and err.filename is not None
        short = is_out_of_memory(err)
        message = f"{err.strerror}: {err.filename}" if named else str(err)  # type: ignore[attr-defined]
        if full:
            again = (
                "" if "".join(arguments[:1]) in NOT_RESUMED else "; the same command then resumes"
            )
            error(message, f"free some space{again}")
        elif named:
            error(message)
        elif short:
            error("out of memory", "a smaller batch or model needs less memory")
        else:
            error(
                f"a bug in xmdpt: {type(err).__name__}: {err}",
                "run again with XMDPT_DEBUG=1 and report what it prints",
            )
        _debug()
        return 1 if full or named or short else 3


def _usage(message: str) -> str:
    """A shorter usage error of Typer; names the variable only if the value came from it."""
    variable = re.search(r" \(env var: '(\w+)'\)", message)
    if variable and variable[1] not in os.environ:
        message = message.replace(variable[0], "")
    return message.replace("Value error, ", "")


def _usage_hint(err: Exception) -> str:
    """The command's help; for an option with the name of a subcommand, the subcommand."""
    context = getattr(err, "ctx", None)
    command = getattr(context, "command_path", "xmdpt")
    option = str(getattr(err, "option_name", "")).lstrip("-")
    subcommands = getattr(getattr(context, "command", None), "commands", {})
    return f"{command} {option if option in subcommands else '--help'}"


def _is_full_disk(err: Exception) -> bool:
    """Whether the disk is full; safetensors reports it only in the message."""
    full = isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(err)


def _debug() -> None:
    if os.environ.get("XMDPT_DEBUG"):
        print(shown(traceback.format_exc()), file=sys.stderr)
