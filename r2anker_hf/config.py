"""Options of a recipe: a dataclass, filled from a YAML file and then from the command line, which wins.

A recipe has `def main(config: MiningConfig)` and ends with `run_recipe(main)`. The fields of the dataclass are the
options and the keys of the YAML file alike: `bool` becomes a flag, `list[...]` takes several values, `dict[str, ...]`
takes NAME=VALUE pairs (in YAML a mapping), `Literal[...]` lists its choices. Of a field's metadata, `help` is what
`--help` shows. `formerly` is a name that the option had before, or several: it is still taken, with a line that gives
the name of today. Where the values changed too, it maps each name to {former value, in small letters: value of today}.
Which numbers are allowed stands in `ranges`.

`--help` is there at once: it loads neither torch nor transformers. So a training's `main` takes a light dataclass. Its
attribute `whole` names the class that it stands for, with the options of transformers' TrainingArguments as well.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import types
from argparse import (
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from .endings import SHOW_TRACE, end
from .files import check_output
from .ranges import Range, check, range_of
from .records import InputError
from .shipped import as_commands, shipped

CONFIG_FILE = "config.yaml"
_SECRETS = {"token", "hub_token", "push_to_hub_token"}
_EPILOG = f"""Exit codes: 0 done, 2 bad input, 130 Ctrl-C, 1 anything else; the error is one line.
{SHOW_TRACE}=1 in the environment prints the full trace instead."""
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text (put it in quotes)"}


def parse_config(
    *configs: type, args: Sequence[str] | None = None, program: str | None = None, description: str | None = None
) -> tuple:
    """One filled dataclass for each of `configs`: its defaults, then `--config FILE.yaml`, then the command line.

    A list or mapping given on the command line replaces the one of the file as a whole.

    Args:
        configs: dataclasses; no two of them may share a field name.
        args: the command line without the program's name; that of this process where None.
        program: what `--help` calls the program; the name of its file where None.
        description: what `--help` prints above the options.

    Raises:
        InputError: a file that cannot be read, an unknown key or option, a missing one, a value of a wrong type or
            out of range, an empty text, or whatever the dataclass itself refuses.

    >>> import dataclasses
    >>> Mining = dataclasses.make_dataclass("Mining", [("runs", dict[str, str]), ("depth", int, 200)])
    >>> parse_config(Mining, args=["--runs", "bm25=A/run.trec", "dense=B/run.trec", "--depth", "7"])
    (Mining(runs={'bm25': 'A/run.trec', 'dense': 'B/run.trec'}, depth=7),)
    """
    args = sys.argv[1:] if args is None else list(args)
    if not {"-h", "--help"} & set(args):
        configs = tuple(map(whole, configs))
    parser = _Parser(configs, prog=program, description=description)
    path = _Parser([], add_help=False).parse_known_args(args)[0].config
    if path is not None:
        parser.use_file(path)
    found, rest = parser.parse_known_args(args)
    if rest:
        raise InputError(f"unknown argument {rest[0]!r}{_closest(rest[0], parser.options())}; see --help")
    with options_fit():
        return tuple(config(**_options_of(config, found)) for config in parser.configs)


@contextmanager
def options_fit() -> Iterator[None]:
    """What a library's arguments, or a trainer that is made of them, refuse becomes an InputError of one line.

    They have many ways to say no (ValueError, TypeError, ImportError ...), each with the option in its message.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(str(error) or type(error).__name__) from error


def run_recipe(main: Callable[..., Any], args: Sequence[str] | None = None) -> None:
    """Call `main` with its parsed configs; whatever goes wrong ends with one line on stderr (see `endings`).

    Which dataclasses they are say the annotations of `main`. The docstring of the recipe stands at the head of its
    `--help`, as the command `r2anker` tells it where that runs the recipe (it sets `__command__`). The output folder
    is looked at first.
    """
    recipe, output_dir = sys.modules[main.__module__], None
    command: str | None = getattr(recipe, "__command__", None)
    try:
        text = _as_command(recipe.__doc__ or "", command) if command else recipe.__doc__
        parsed = parse_config(*configs_of(main), args=args, program=command, description=text)
        output_dir = next((part.output_dir for part in parsed if getattr(part, "output_dir", None)), None)
        if output_dir is not None:
            check_output(output_dir)
        main(*parsed)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(SHOW_TRACE) == "1":
            raise
        end(error, output_dir)


def configs_of(main: Callable[..., Any]) -> list[type]:
    """The dataclasses that a recipe's `main` takes.

    >>> def main(sampling: dict, seed: int) -> None: ...
    >>> configs_of(main)
    [<class 'dict'>, <class 'int'>]
    """
    return [hint for name, hint in get_type_hints(main).items() if name != "return"]


def _options_of(config: type, found: Any) -> dict[str, Any]:
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(config) if field.init}


def _as_command(text: str, command: str) -> str:
    """A recipe's docstring for those who start it by `r2anker`.

    >>> print(_as_command("Mine.\\n\\n    accelerate launch recipes/mine.py --depth 7", "r2anker mine"))
    Mine.
    <BLANKLINE>
        r2anker mine --depth 7
    <BLANKLINE>
    Several processes or GPUs share the work of: accelerate launch -m r2anker_hf mine ...
    """
    if "accelerate launch" not in text:
        return as_commands(text)
    launched = command.replace("r2anker", "accelerate launch -m r2anker_hf", 1)
    return f"{as_commands(text).rstrip()}\n\nSeveral processes or GPUs share the work of: {launched} ..."


def whole(config: type) -> type:
    """The class that a light one stands for, such as a training's with the options of transformers; others as is."""
    place = getattr(config, "whole", None)
    return resolve_name(place) if place else config


def former_names(*configs: type) -> dict[str, str]:
    """Today's name of each option, by the names that it had before.

    What is an option's name today is nobody's former name. Of two options that had the same name, as one and the
    class that inherits it, the last one has it.

    >>> import dataclasses
    >>> depth = dataclasses.field(default=200, metadata={"formerly": ("top_n", "top")})
    >>> former_names(dataclasses.make_dataclass("Mining", [("depth", int, depth), ("top", bool, False)]))
    {'top_n': 'depth'}
    """
    fields = [field for config in configs for field in dataclasses.fields(config) if field.init]
    today = {field.name for field in fields}
    names: dict[str, str] = {}
    for field in fields:
        former = field.metadata.get("formerly", ())
        names |= dict.fromkeys((former,) if isinstance(former, str) else former, field.name)
    return {name: now for name, now in names.items() if name not in today}


def with_names_of_today(values: Mapping[str, Any], *configs: type) -> dict[str, Any]:
    """A stage's options as `config.yaml` has them, each under today's name; what has that already, keeps it.

    >>> import dataclasses
    >>> depth = dataclasses.field(default=200, metadata={"formerly": "top_n"})
    >>> with_names_of_today({"top_n": 50, "seed": 42}, dataclasses.make_dataclass("Mining", [("depth", int, depth)]))
    {'depth': 50, 'seed': 42}
    """
    formerly = former_names(*configs)
    fields = {field.name: field for config in configs for field in dataclasses.fields(config)}
    found = {}
    for name, value in values.items():
        today = formerly.get(name, name)
        if today == name or today in values:
            found[name] = value
        else:
            found[today] = _value_of_today(fields[today].metadata, name, value)
    return found


def _value_of_today(metadata: Mapping[str, Any], former: str, value: Any) -> Any:
    """What a value that was given under a former name is called today."""
    formerly = metadata["formerly"]
    return formerly[former].get(str(value).lower(), value) if isinstance(formerly, Mapping) else value


def defaults_of(config: type) -> dict[str, Any]:
    """Each option's default, as `config.yaml` has it; without the options that must be given.

    >>> import dataclasses
    >>> defaults_of(dataclasses.make_dataclass("Mining", [("runs", dict), ("depth", int, 200)]))
    {'depth': 200}
    """
    found = {}
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if default is not dataclasses.MISSING:
            found[field.name] = _plain(default)
    return found


def save_config(config: Any, folder: str | os.PathLike) -> Path:
    """Write the resolved `config.yaml` of a stage; `--config` reads it back as an equal config.

    A Hub token is left out, since a folder may be published.

    Args:
        config: a dataclass instance, or the tuple of them that `parse_config` returns.
        folder: an existing folder.

    Returns:
        The path of the file.
    """
    parts = config if isinstance(config, tuple) else (config,)
    values = {key: value for part in parts for key, value in _plain(part).items() if key not in _SECRETS}
    path = Path(folder) / CONFIG_FILE
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


class _Parser(ArgumentParser):
    """The options of dataclasses, `--config`, and errors of one line."""

    def __init__(self, configs: Iterable[type], **kwargs: Any):
        # An abbreviated option would change its meaning on the day that another one gets the same beginning.
        usage = "%(prog)s [--config FILE.yaml] [--option value ...]"
        kwargs |= {"usage": usage, "epilog": _EPILOG, "formatter_class": _HelpFormatter}
        super().__init__(allow_abbrev=False, **kwargs)
        self.configs = list(configs)
        self.formerly = former_names(*self.configs)
        for config in self.configs:
            hints = get_type_hints(config)
            for field in dataclasses.fields(config):
                if field.init:
                    self._add_option(field, hints[field.name])
        self.add_argument("--config", metavar="FILE.yaml", help="values for these options; the command line wins")
        if any(hasattr(config, "whole") for config in self.configs):
            told = "show the options of transformers' TrainingArguments as well, which are options here; takes seconds"
            self.add_argument("--help_all", action="help", help=told)

    def _add_option(self, field: dataclasses.Field, hint: Any) -> None:
        """As `--a_name`, `--a-name` and under its former names; a flag that is on by default also as `--no_a_name`."""
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        former = [f"--{name}" for name, today in self.formerly.items() if today == field.name]
        kind, allowed = _typed(hint), range_of(field)
        told = field.metadata.get("help") or field.name  # argparse shows no default of what has no help
        given: dict[str, Any] = {
            "required": default is dataclasses.MISSING,
            "default": _default_typed(kind, default),
            "help": told,
        }
        given |= {"action": _Store} | _argparse_kind(kind, default, allowed)
        given |= {key: field.metadata[key] for key in ("metavar", "choices") if key in field.metadata}
        names = dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"])
        action = self.add_argument(*names, *former, **given)
        action.range, action.metadata = allowed, field.metadata  # type: ignore[attr-defined]
        if kind is bool and default is True:
            off = dict.fromkeys([f"--no_{field.name}", f"--no-{field.name.replace('_', '-')}"])
            self.add_argument(*off, action="store_false", dest=field.name, help=told)

    def _check_value(self, action: Action, value: Any) -> None:
        """argparse looks at choices before a former value is one of today; `_Store` looks afterwards."""

    def use_file(self, path: str) -> None:
        """Take a file's values as defaults, so that an option which it gives is no longer required."""
        hints = {name: hint for config in self.configs for name, hint in get_type_hints(config).items()}
        fields = {field.name: field for config in self.configs for field in dataclasses.fields(config)}
        keys = [name for name, field in fields.items() if field.init]
        values: dict[str, Any] = {}
        for key, (line, value) in _load_yaml(path).items():
            if key in self.formerly:
                today = self.formerly[key]
                _tell_new_name(f"{path}, line {line}: {key}", today)
                key, value = today, _value_of_today(fields[today].metadata, key, value)
            if key in values:
                raise InputError(f"{path}, line {line}: {key} is given under two names")
            if key not in keys:
                known = ", ".join(sorted(keys))
                raise InputError(f"{path}, line {line}: unknown key {key!r}{_closest(str(key), keys)}; known: {known}")
            try:
                values[key] = _convert(value, hints[key])
                _check_value(fields[key], values[key])
            except _WrongType as error:
                raise InputError(f"{path}, line {line}: {key}: {error}") from None
            except InputError as error:
                raise InputError(f"{path}, line {line}: {error}") from None
        self.set_defaults(**values)
        for action in self._actions:
            action.required = action.required and action.dest not in values

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse, and every value is in the range of its option."""
        found, rest = super().parse_known_args(args, namespace)
        for config in self.configs:
            for field in dataclasses.fields(config):
                if field.init:
                    _check_value(field, getattr(found, field.name))
        return found, rest

    def options(self) -> list[str]:
        """Every option, in its first spelling."""
        return [action.option_strings[0] for action in self._actions]

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print, with one spelling of each option."""
        raise InputError(re.sub(r"(--\w+)/--[\w-]+", r"\1", message) + "; see --help")


class _Store(Action):
    """Keep the value; say so where the option came by a former name."""

    metadata: Mapping[str, Any]

    def __call__(self, parser, namespace, values, option_string=None):
        name = option_string.lstrip("-").replace("-", "_")
        if name != self.dest:
            _tell_new_name(option_string, self.option_strings[0])
            values = _value_of_today(self.metadata, name, values)
        for value in values if isinstance(values, list) else [values]:
            ArgumentParser._check_value(parser, self, value)
        setattr(namespace, self.dest, values)


class _StoreMapping(_Store):
    """Keep the pairs of an option as one dictionary, in the order given."""

    def __call__(self, parser, namespace, values, option_string=None):
        names = [name for name, _ in values]
        for name in names:
            if names.count(name) > 1:
                parser.error(f"argument {option_string}: the name {name!r} is given twice")
        super().__call__(parser, namespace, dict(values), option_string)


class _HelpFormatter(RawDescriptionHelpFormatter, ArgumentDefaultsHelpFormatter):
    """One spelling of each option, and its default as one would type it."""

    def _format_action_invocation(self, action):
        option = next(option for option in action.option_strings if option.startswith("--"))
        return option if action.nargs == 0 else f"{option} {self._format_args(action, action.dest.upper())}"

    def _get_help_string(self, action):
        told = [str(action.range)] if getattr(action, "range", None) else []
        if action.required:
            told.append("required")
        elif action.nargs != 0 and action.default not in (None, "", [], {}):
            told.append(f"default: {_as_typed(action.default)}")
        text = f"{action.help or ''} ({'; '.join(told)})" if told else action.help or ""
        return text.strip().replace("%", "%%")


def _typed(hint: Any) -> Any:
    """What one types for an option that takes several types: text where it takes text or None, else the first."""
    members = [member for member in _members(hint) if member is not type(None)]
    mappings = [member for member in members if get_origin(member) is dict]
    others = [member for member in members if member is not str]
    if mappings:
        return mappings[0]
    return str if str in members and (type(None) in _members(hint) or not others) else others[0]


def _default_typed(kind: Any, default: Any) -> Any:
    """What an option is that nobody gives; argparse would read a text, such as transformers have for some lists."""
    text_for_list = get_origin(kind) is list and isinstance(default, str)
    return None if default is dataclasses.MISSING or text_for_list else default


def _argparse_kind(kind: Any, default: Any, allowed: Range | None) -> dict[str, Any]:
    """argparse's arguments for an option of that type."""
    origin = get_origin(kind) or kind
    if origin is dict:
        pair = _pair_of(get_args(kind)[1], allowed)
        return {"action": _StoreMapping, "type": pair, "nargs": "+", "metavar": "NAME=VALUE"}
    if origin is list:
        return {"type": _reader(get_args(kind)[0], allowed), "nargs": "+"}
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        choices = get_args(kind) if origin is Literal else [choice.value for choice in kind]
        by_text = {str(choice): choice for choice in choices}
        return {"choices": choices, "type": lambda text: by_text.get(text, text)}
    if kind is bool:
        return {"type": _truth} if default is None else {"type": _truth, "nargs": "?", "const": True}
    return {"type": _reader(kind, allowed)}


def _reader(kind: Any, allowed: Range | None) -> Callable[[str], Any]:
    if kind in (int, float) and allowed is not None:
        return _number(kind, allowed)
    return str if kind is Any else kind


def _truth(text: str) -> bool:
    """true or false, as one types it."""
    words = {"true": True, "yes": True, "t": True, "y": True, "1": True}
    words |= {"false": False, "no": False, "f": False, "n": False, "0": False}
    if text.lower() not in words:
        raise ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def _tell_new_name(former: str, name: str) -> None:
    print(f"{former}: is called {name} now", file=sys.stderr)


def _number(kind: type, allowed: Range) -> Callable[[str], Any]:
    """`int` or `float` for argparse; what is no number is refused with the range, so that one line says it all."""

    def number(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise ArgumentTypeError(f"invalid {kind.__name__} value: {text!r}, must be {allowed}") from None

    return number


def _check_value(field: dataclasses.Field, value: Any) -> None:
    """Refuse a number out of range, and an empty text; what is left at its default may be empty."""
    allowed = range_of(field)
    if allowed is not None:
        check(field.name, value, allowed)
    texts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and not text.strip() for text in texts) and value != field.default:
        raise InputError(f"{field.name} is empty; give a value, or leave the option out")


class _WrongType(Exception):
    """A value of a YAML file that does not fit its field."""


def _convert(value: Any, hint: Any) -> Any:
    """A YAML value as the type of its field; types that are not named here take any value."""
    members = _members(hint)
    if len(members) > 1:
        return _convert_to_any(value, members, hint)
    origin = get_origin(hint) or hint
    if origin is list:
        fits = isinstance(value, list)
    elif origin is dict:
        fits = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    elif origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        fits = value in [choice.value for choice in hint]
    elif hint is float:
        value, fits = _as_float(value)
    elif hint is Path:
        value, fits = (Path(value), True) if isinstance(value, str) else (value, False)
    else:
        fits = type(value) is hint if hint in (bool, int, str, type(None)) else True
    if not fits:
        raise _WrongType(f"{value!r} is not {_describe(hint)}")
    if origin is list and get_args(hint):
        return [_convert(item, get_args(hint)[0]) for item in value]
    if origin is dict and get_args(hint):
        return {name: _convert(item, get_args(hint)[1]) for name, item in value.items()}
    return value


def _convert_to_any(value: Any, members: Sequence[Any], hint: Any) -> Any:
    for member in members:
        try:
            return _convert(value, member)
        except _WrongType:
            continue
    raise _WrongType(f"{value!r} is not {_describe(hint)}")


def _as_float(value: Any) -> tuple[Any, bool]:
    """YAML 1.1 reads 1e-5 as text, because it has no point; a number is what everyone means by it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value, False
    try:
        return float(value), True
    except ValueError:
        return value, False


def _describe(hint: Any) -> str:
    members = _members(hint)
    if len(members) > 1:
        return " or ".join(_describe(member) for member in members)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(repr(choice.value) for choice in hint)
    if (get_origin(hint) or hint) is list:
        return "a list" + "".join(f" of {_describe(item)}" for item in get_args(hint)[:1])
    if (get_origin(hint) or hint) is dict:
        return "a mapping of names" + "".join(f" to {_describe(item)}" for item in get_args(hint)[1:])
    if hint is type(None):
        return "null"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _members(hint: Any) -> list[Any]:
    """The types that a union admits, or the type itself."""
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _pair_of(value_type: Any, allowed: Range | None) -> Callable[[str], tuple[str, Any]]:
    convert = _reader(value_type, allowed)

    def pair(text: str) -> tuple[str, Any]:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
        return name, convert(value)

    return pair


class _OneValuePerKey(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def file_of(path: str) -> Path:
    """The file that an option such as --config names: of the working directory, else the recipes' own of that name."""
    if Path(path).exists() or Path(path).is_absolute():
        return Path(path)
    ours = shipped("recipes") / path.removeprefix("recipes/")
    return ours if ours.is_file() else Path(path)


def _load_yaml(path: str) -> dict[Any, tuple[int, Any]]:
    """The keys of a YAML file, each with its line and its value."""
    try:
        loader = _OneValuePerKey(file_of(path).read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{path}: holds no `key: value` lines")
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte 0x{error.object[error.start]:02x} at {error.start} is not UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    lines = {loader.construct_object(key): key.start_mark.line + 1 for key, _ in node.value}
    return {key: (lines[key], value) for key, value in values.items()}


def _closest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""


def _as_typed(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(getattr(value, "value", value))


def _plain(value: Any) -> Any:
    """A config or one of its values in terms of YAML."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
