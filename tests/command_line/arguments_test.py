"""How commands name a model, and how they end."""

import argparse

import pytest

from vit_jax.command_line import arguments


def parse(*argv: str) -> tuple[str, list[str]]:
    parser = argparse.ArgumentParser()
    arguments.add_checkpoint(parser)
    parser.add_argument('photos', nargs='*')
    parser.add_argument('--out')
    args = parser.parse_intermixed_args(argv)
    return arguments.checkpoint_of(args, args.photos), args.photos


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        ('run', ('run', [])),
        ('--checkpoint run', ('run', [])),
        ('run --out x a b', ('run', ['a', 'b'])),
        ('--checkpoint run --out x a b', ('run', ['a', 'b'])),
        ('a --checkpoint run b', ('run', ['a', 'b'])),
    ],
)
def test_the_model_is_the_first_argument_or_an_option(argv, expected):
    assert parse(*argv.split()) == expected


def test_no_model_and_two():
    with pytest.raises(ValueError, match='no model is named'):
        parse('--out', 'x')
    args = argparse.Namespace(reference='a', checkpoint='b')
    with pytest.raises(ValueError, match='two models'):
        arguments.checkpoint_of(args)


def test_exit_codes(capsys):
    def fail() -> int:
        raise FileNotFoundError('there is no x')

    def stop() -> int:
        raise KeyboardInterrupt

    assert arguments.run('look', lambda: 0) == 0
    assert arguments.run('look', stop) == 130
    assert arguments.run('look', fail) == 2
    assert capsys.readouterr().err == 'look: there is no x\n'
