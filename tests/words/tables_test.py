"""Tables of text."""

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
