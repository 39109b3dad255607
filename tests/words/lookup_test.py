"""Names in tables of the package, and names in the user's own code."""

import pytest

from vit_jax.words import lookup

TABLE = {'softmax': 1, 'sigmoid': 2}


def test_an_entry_of_the_table():
    assert lookup.lookup(TABLE, 'sigmoid', 'config.task') == 2


def test_the_users_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_own_tasks.py').write_text('class Group:\n    task = 7\n')
    assert lookup.lookup(TABLE, 'my_own_tasks:Group.task', 'config.task') == 7
    with pytest.raises(ValueError, match=r'has no Grup\. Did you mean Group\?'):
        lookup.lookup(TABLE, 'my_own_tasks:Grup', 'config.task')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('sigmiod', r'config.task is .sigmiod.; .* softmax, sigmoid.*mean sigmoid\?'),
        ('nowhere:Task', 'there is no module nowhere'),
        ('json.nowhere:Task', r'there is no module json\.nowhere'),
    ],
)
def test_what_there_is_not(name, message):
    with pytest.raises(ValueError, match=message):
        lookup.lookup(TABLE, name, 'config.task')


def test_a_module_that_fails(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_broken_tasks.py').write_text('import not_installed_at_all\n')
    with pytest.raises(ValueError, match='my_broken_tasks cannot be imported: No mod'):
        lookup.lookup(TABLE, 'my_broken_tasks:Task', 'config.task')
