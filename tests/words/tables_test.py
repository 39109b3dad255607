"""Tables of text."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from vit_jax.words import tables

ROWS = [['name', 'size'], ['a', '12,345'], ['longer', '']]


def test_table():
    rows = [{'step': 1, 'loss': 0.25}, {'step': 100, 'loss': 'none'}]
    assert tables.table(rows) == 'step    loss\n   1  0.2500\n 100    none'


def test_text_lines():
    assert tables.text_lines(ROWS, left=1) == [
        'name      size',
        'a       12,345',
        'longer',
    ]


def test_markdown():
    assert tables.markdown(ROWS, left=1).splitlines() == [
        '| name   |   size |',
        '| ------ | -----: |',
        '| a      | 12,345 |',
        '| longer |        |',
    ]
    assert tables.markdown(ROWS, left=1, padded=False).splitlines() == [
        '| name | size |',
        '| --- | --: |',
        '| a | 12,345 |',
        '| longer |  |',
    ]


def test_columns_that_do_not_fit_are_left_out_in_their_order():
    rows = [['name', 'what it is', 'size'], ['a', 'something', '3']]
    assert tables.without_columns(rows, (1,), None) == rows
    assert tables.without_columns(rows, (1,), 30) == rows
    assert tables.without_columns(rows, (1,), 15) == [['name', 'size'], ['a', '3']]
    assert tables.without_columns(rows, (1, 2), 5) == [['name'], ['a']]


@pytest.mark.parametrize('command', [['summary', 'ViT-B_16'], ['models']])
def test_tables_fit_a_terminal(command):
    """One of 80 columns; addresses alone may be longer, which are no table."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, '-m', f'vit_jax.{command[0]}', *command[1:]],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k not in ('COLUMNS', 'LINES')},
    )
    os.close(slave)
    content = b''
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(master, 65536):
            content += part
    assert process.wait() == 0
    lines = content.decode().splitlines()
    assert len(lines) > 10
    assert max(len(line) for line in lines if '://' not in line) <= 80
