"""The command `r2anker`: every recipe under a name of its own, and the demo.

    r2anker train-ranker --config nano/train_ranker.yaml --negatives D/negatives --output_dir D/ranker

does what `python recipes/train_ranker.py` with these options does in a clone: it runs that same file. A wheel ships
the files. Nothing is imported here that `r2anker --help` would have to wait for.
"""

from __future__ import annotations

import difflib
import os
import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__
from .endings import end
from .records import InputError
from .shipped import as_commands, shipped

DEMO = "demo"
COMMANDS = (
    *(DEMO, "retrieve", "fuse", "import-negatives", "mine", "analyse", "export", "train-ranker", "curve"),
    *("rerank", "score", "over-seeds", "study", "pretrain", "train-retriever", "teach", "distil"),
    *("publish", "publish-all", "space", "verify", "hub-job"),
)
"""In the order of the work."""

FIRST = {"verify": "repo_id"}
"""Options whose value may stand first, without the option's name."""

_USAGE = """usage: r2anker COMMAND [--config FILE.yaml] [--option value ...]

{commands}

r2anker COMMAND --help lists a command's options. r2anker --version prints the version.
Several processes or GPUs share the work of: accelerate launch -m r2anker_hf COMMAND ...
--config also takes the settings in {recipes}, by their names there:
  {folders}
"""


class _Parser(ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (that of this process where None); a recipe's exit code is that of the process."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    try:
        if name in ("--help", "-h"):
            print(usage(), end="")
        elif name == "--version":
            print(f"r2anker_hf {__version__}")
        elif (command := name.replace("_", "-")) == DEMO:
            demo(rest)
        elif command in COMMANDS:
            run(command, _named(command, rest))
        else:
            raise InputError(_unknown(name))
    except (InputError, KeyboardInterrupt, ModuleNotFoundError) as error:  # a recipe imports before it runs
        end(error)


def _named(command: str, args: Sequence[str]) -> Sequence[str]:
    """The options, with the name of the one that may stand first without it.

    >>> _named("verify", ["me/ranker", "--version", "1.0.0"])
    ['--repo_id', 'me/ranker', '--version', '1.0.0']
    """
    first = FIRST.get(command)
    return [f"--{first}", *args] if first and args and not args[0].startswith("-") else args


def usage() -> str:
    """What `r2anker --help` prints: each command with what it does."""
    recipes = shipped("recipes")
    lines = [f"  {command:<16}  {summary(command)}" for command in COMMANDS]
    folders = sorted({path.parent.name for path in recipes.glob("*/mine.yaml")})
    names = ", ".join(f"{folder}/mine.yaml" for folder in folders)
    return _USAGE.format(commands="\n".join(lines), recipes=recipes, folders=names)


def summary(command: str) -> str:
    """One line on a command: the first of its recipe, without the name at its head."""
    if command == DEMO:
        return "The whole story on a small collection, in minutes on two CPU cores, with nothing to download."
    with open(recipe_of(command), encoding="utf-8") as file:
        what = as_commands(file.readline().partition(": ")[2].strip())
    return what[:1].upper() + what[1:]


def recipe_of(command: str) -> Path:
    """The file of a command's recipe.

    >>> recipe_of("train-ranker").name
    'train_ranker.py'
    """
    return shipped("recipes") / f"{command.replace('-', '_')}.py"


def run(command: str, args: Sequence[str]) -> None:
    """Run a recipe's file in this process, as `python` would; `--help` shows it under the command's name."""
    recipe = str(recipe_of(command))
    sys.argv = [recipe, *args]
    runpy.run_path(recipe, init_globals={"__command__": f"r2anker {command}"}, run_name="__main__")


def demo(args: Sequence[str]) -> NoReturn:
    """Become recipes/nano/run.sh, which runs the recipes with this interpreter."""
    script = shipped("recipes") / "nano" / "run.sh"
    parser = _Parser(prog=f"r2anker {DEMO}", description=summary(DEMO), allow_abbrev=False)
    told = "folder for all results (default: %(default)s); finished stages are not done twice"
    parser.add_argument("--output_dir", "--output-dir", metavar="DIR", default="out/nano", help=told)
    parser.epilog = f"{script.parents[1] / 'run.sh'} names, at its head, variables that change the story."
    output_dir = parser.parse_args(args).output_dir
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    settings = {"OUT": output_dir, "PATH": path, "R2ANKER_PYTHON": sys.executable}
    try:
        os.execvpe("bash", ["bash", str(script)], {**os.environ, **settings})
    except FileNotFoundError:
        raise InputError(f"bash, which runs {script}, is not installed") from None


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"unknown option {name!r}; see r2anker --help"
    close = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=3)
    choices = f"did you mean {' or '.join(close)}?" if close else f"choices: {', '.join(COMMANDS)}"
    return f"unknown command {name!r}, {choices}"
