"""A recipe and the flags beside it, from the command line to a configuration."""

import functools
import importlib.util
import inspect
import pathlib
import re
import sys
import textwrap
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax import config as config_lib
from vit_jax.config.defaults import get
from vit_jax.config.keys import GROUPS
from vit_jax.words.suggest import did_you_mean

# What `hosts.connect` takes; its default is None's meaning.
HOSTS = {
    'coordinator_address': 'Of several hosts: host:port of process 0. Slurm, Open MPI '
    'and TPU pods need none of these flags.',
    'num_processes': 'Of several hosts: how many processes there are.',
    'process_id': 'Of several hosts: which one this is, from 0.',
    'coordinator_timeout': 'Seconds within which all hosts must be there (300).',
    'heartbeat_timeout': 'Seconds without a sign of life until a host is lost, and the '
    'others end (100).',
}
_NUMBERS = HOSTS.keys() - {'coordinator_address'}
FLAGS = {
    'workdir': 'The run directory; a stopped run goes on.',
    'dry_run': 'Say what the run would take (memory, time, which knobs to turn), and '
    'make no run directory.',
    'compile_cache': 'Where compiled programs are kept for later starts: a folder, or '
    "'off'; default: JAX_COMPILATION_CACHE_DIR, or the user's cache.",
    **HOSTS,
}
_INDENT = ' ' * 6
_FLAG = re.compile(r'--?config(?:=(.*))?$', re.DOTALL)
_KEY = re.compile(r'--?config\.([\w.]+)(?:=(.*))?$', re.DOTALL)


def installed_recipes() -> dict[str, pathlib.Path]:
    """Returns the files of the installed recipes by name."""
    return {
        recipe.name: recipe
        for folder in importlib.import_module('vit_jax.configs').__path__
        for recipe in sorted(pathlib.Path(folder).glob('*.py'))
        if recipe.stem not in ('__init__', 'models')
    }


def find_recipe(name: str) -> pathlib.Path:
    """Returns the file of a recipe: a path, or the name of an installed one.

    Raises:
        ValueError: there is neither.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    installed = installed_recipes()
    for candidate in (path.name, f'{path.name}.py'):
        # configs/vit.py from outside the checkout means the installed one as well.
        if candidate in installed and path.parent.name in ('', 'configs'):
            return installed[candidate]
    raise ValueError(
        f'There is no recipe {name}. Give the path of a file with a get_config(), or '
        f'one of {", ".join(installed)}.' + did_you_mean(path.name, installed)
    )


def load_recipe(reference: str) -> ConfigDict:
    """Returns the configuration of FILE.py or FILE.py:ARGUMENT.

    Raises:
        ValueError: no such recipe, or it does not take this argument.
    """
    name, colon, argument = reference.partition(':')
    path = find_recipe(name)
    spec = importlib.util.spec_from_file_location(f'recipe_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = [argument] if colon else []
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        raise ValueError(
            f'--config={reference}: the recipe has another number of arguments '
            f'({error}). Its argument stands after a colon, as in vit.py:b16,cifar10.'
        ) from error
    return module.get_config(*arguments).lock()


def parse(argv: Sequence[str]) -> tuple[ConfigDict, flags.FlagValues]:
    """Returns the configuration and the other flags of a command line.

    Args:
        argv: the program's name and its arguments.

    Raises:
        ValueError: something is missing, unknown or of the wrong type; one line.
    """
    reference, rest = _take_config(list(argv))
    if reference is None and not {'--help', '--helpshort', '-h'} & set(rest):
        raise ValueError(
            '--config is missing. Name a recipe, as in --config=configs/quickstart.py '
            'or --config=configs/vit.py:b16,cifar10.'
        )
    config = load_recipe(reference) if reference else config_lib.default().lock()
    rest, none_keys = _take_none_and_gone(config, rest)

    values = _other_flags()
    try:
        config_flags.DEFINE_config_dict(
            'config', config, flag_values=values, sys_argv=rest
        )
        unused = values(rest)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(_flag_error(config, rest, error)) from error
    if values.help:
        print(_help(config))
        raise SystemExit(0)
    if unused:
        raise ValueError(
            f'What is {" ".join(unused)}? Every setting is one word like '
            '--config.batch=64; quote values with spaces or brackets: '
            "'--config.pp.size=(384, 512)'."
        )
    if not values.workdir:
        raise ValueError('--workdir is missing: where the run keeps what it makes.')
    config = values.config
    for key in none_keys:
        config_lib.set_key(config, key, None)
    return config, values


def _other_flags() -> flags.FlagValues:
    """Returns the flags besides those of the configuration."""
    values = flags.FlagValues()
    for name, text in FLAGS.items():
        define = flags.DEFINE_string
        if name == 'dry_run':
            define = flags.DEFINE_bool
        elif name in _NUMBERS:
            define = flags.DEFINE_integer
        default = False if name == 'dry_run' else None
        define(name, default, text, flag_values=values)
    flags.DEFINE_bool(
        'help', False, 'Show this help.', short_name='h', flag_values=values
    )
    return values


def _help(config: ConfigDict) -> str:
    """Returns the help: the flags, and every key in its group with its value."""
    fill = functools.partial(
        textwrap.fill, width=80, initial_indent=_INDENT, subsequent_indent=_INDENT
    )
    lines = [
        'python -m vit_jax.main --config=RECIPE --workdir=DIR [--config.key=value …]',
        '',
        textwrap.fill(
            'Trains the model of a recipe. A recipe is a file with a get_config(), or '
            'the name of one that is installed: '
            + ', '.join(installed_recipes())
            + '.',
            width=80,
        ),
    ]
    for name, text in FLAGS.items():
        lines += ['', f'--{name}', fill(text)]
    for group, keys in GROUPS.items():
        lines += ['', f'{group}:']
        for name, key in keys.items():
            value = get(config, name)
            value = '' if isinstance(value, ConfigDict) else repr(value)
            lines += [f'  --config.{name}={value}', fill(key.described())]
    return '\n'.join(lines)


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Returns the value of --config, and the other arguments."""
    for i, argument in enumerate(argv):
        if match := _FLAG.match(argument):
            if match[1] is not None:
                return match[1], argv[:i] + argv[i + 1 :]
            if i + 1 < len(argv):
                return argv[i + 1], argv[:i] + argv[i + 2 :]
    return None, argv


def _take_none_and_gone(
    config: ConfigDict, argv: list[str]
) -> tuple[list[str], list[str]]:
    """Takes out settings to None, and keys that have no meaning here any more.

    ml_collections reads None as a string or not at all; the caller sets these keys.
    """
    names, with_none = config_lib.flatten(config), config_lib.keys_with_none()
    rest, none_keys = [], []
    words = iter(argv)
    for word in words:
        match = _KEY.match(word)
        key, value = (match[1], match[2]) if match else (None, None)
        if key in config_lib.GONE:
            print(f'--config.{key}: {config_lib.GONE[key]}', file=sys.stderr)
            continue
        if key in with_none and value is None:
            value = next(words, None)  # --config.key VALUE, in two words
            word = word if value is None else f'{word}={value}'
        if key in with_none and value in ('None', 'none'):
            none_keys += [key] if key in names else []
        elif key in names and value == 'None':
            none_keys.append(key)  # which is refused
        else:
            rest.append(word)
    return rest, none_keys


def _flag_error(config: ConfigDict, argv: Sequence[str], error: Exception) -> str:
    """Returns one line for what absl and ml_collections raise."""
    names = config_lib.flatten(config)
    for argument in argv:
        match = _KEY.match(argument)
        key = re.sub(r'^no(?=config)', '', match[1]) if match else None
        if key and not any(k == key or k.startswith(f'{key}.') for k in names):
            return f'There is no key config.{key}.{did_you_mean(key, names)}'
    if isinstance(error, flags.UnrecognizedFlagError):
        flag = error.flagname
        near = did_you_mean(flag, ('config', *FLAGS, *names))
        return f'There is no flag --{flag}.{near}'
    return ' '.join(str(error).split())
