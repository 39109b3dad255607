"""Who may import whom, read from the sources; and what imports bring with them."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import declared
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted((ROOT / 'vit_jax').rglob('*.py'))
RECIPES = sorted((ROOT / 'configs').glob('*.py'))

# The rooms, one floor a line: a room may import only from floors before its own. A
# file at the root is a room by itself; what is not on the list is refused.
FLOORS = (
    ('words',),
    ('files', 'models'),
    ('runtime', 'optim', 'config', 'tasks'),
    ('checkpoint', 'data'),
    ('inference',),
    ('evaluation',),
    ('export', 'visualize'),
    ('training',),
    ('forecast', 'train'),
    ('command_line', 'configs'),
    ('compare', 'report'),
    # The doors: what people run. Nobody imports them.
    (
        *('main', 'fine_tuning', 'predict', 'evaluate', 'features', 'few_shot'),
        *('convert', 'summary', '__main__'),
    ),
)
DOORS = FLOORS[-1]
# Not TensorFlow, not PyTorch, and nothing that brings them or is on its way out.
BANNED = re.compile(
    r'(tensorflow|tensorflow_text|torch|torchvision|clu)(\.|$)'
    r'|flax\.training|flax\.jax_utils|jax\.pmap|jax\.experimental\.maps'
)
# Needed by TFDS and by jax.export, which do not declare them.
NOT_IMPORTED = {'importlib_resources', 'flatbuffers'}


def name_of(path: pathlib.Path) -> str:
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def imports(tree: ast.AST) -> set[str]:
    """Returns the dotted names that a module imports, wherever in its text."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, 'imports are absolute here'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def attributes(tree: ast.AST) -> set[str]:
    """Returns dotted expressions such as jax.pmap."""
    return {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def rooms(names: set[str]) -> set[str]:
    """Returns which rooms (or modules) of vit_jax are among imported names."""
    return {name.split('.')[1] for name in names if name.startswith('vit_jax.')}


def test_the_reader_of_imports():
    tree = ast.parse(
        'import a.b as c\nfrom vit_jax import train, models\n'
        'def f():\n  from vit_jax.data.images.ops import decode\n  return jax.pmap(f)'
    )
    found = imports(tree)
    assert found == {
        'a.b',
        'vit_jax.train',
        'vit_jax.models',
        'vit_jax.data.images.ops.decode',
    }
    assert rooms(found) == {'train', 'models', 'data'}
    assert BANNED.match(attributes(tree).pop())
    assert BANNED.match('torch')
    assert BANNED.match('flax.training.checkpoints')
    assert not BANNED.match('tensorflow_datasets')


def floor_of(room: str) -> int:
    """Returns on which floor a room is."""
    (floor,) = (i for i, rooms in enumerate(FLOORS) if room in rooms)
    return floor


def test_every_room_is_on_the_list():
    rooms = {path.relative_to(ROOT / 'vit_jax').parts[0] for path in SOURCES}
    rooms = {room.removesuffix('.py') for room in rooms} - {'__init__'}
    listed = [room for floor in FLOORS for room in floor]
    assert sorted(rooms) == sorted(listed)
    at_the_root = list((ROOT / 'vit_jax').glob('*.py'))
    assert len(at_the_root) <= 12


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_rooms_import_only_from_lower_floors(path):
    inside = path.relative_to(ROOT / 'vit_jax')
    room = inside.parts[0].removesuffix('.py')
    if room == '__init__':
        return
    found = rooms(imports(ast.parse(path.read_text()))) - {room}
    is_door = inside.name == '__main__.py'  # a door inside a room
    floor = len(FLOORS) if is_door else floor_of(room)
    assert {name for name in found if floor_of(name) >= floor} == set()
    assert not found & set(DOORS)


@pytest.mark.parametrize('path', [*SOURCES, *RECIPES], ids=name_of)
def test_nothing_banned(path):
    tree = ast.parse(path.read_text())
    names = imports(tree) | attributes(tree)
    assert not {name for name in names if BANNED.match(name)}


def test_what_is_imported_is_declared_and_the_other_way_round():
    used = set()
    for path in [*SOURCES, *RECIPES]:
        for name in imports(ast.parse(path.read_text())):
            top = name.split('.')[0]
            if top not in sys.stdlib_module_names and top != 'vit_jax':
                # Several distributions share the namespace of Google's packages.
                used.add('google.protobuf' if top == 'google' else top)
    owners = importlib.metadata.packages_distributions()
    owners['google.protobuf'] = ['protobuf']
    groups = declared.requirements()
    known = {name for names in groups.values() for name in names}
    # A module may come from any of several distributions.
    found = {name: set(map(declared.normalized, owners[name])) for name in used}
    assert [name for name, names in found.items() if not names & known] == []
    needless = set(groups['core']) - set().union(*found.values())
    assert needless == set(map(declared.normalized, NOT_IMPORTED))


def python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_imports_nothing_heavy():
    loaded = python('import sys, vit_jax, vit_jax.configs; print(*sys.modules)').split()
    assert not {'jax', 'numpy', 'flax', 'ml_collections'} & set(loaded)


@pytest.mark.parametrize(
    ('module', 'light_without'),
    [
        ('vit_jax.models', {'grain', 'cv2', 'PIL', 'tensorflow_datasets', 'sklearn'}),
        ('vit_jax.checkpoint', {'grain', 'cv2', 'PIL', 'pandas', 'requests'}),
        ('vit_jax.data', {'grain', 'cv2', 'jax', 'flax', 'tensorflow_datasets'}),
        ('vit_jax.main', {'grain', 'cv2', 'tensorflow_datasets'}),
        ('vit_jax.train', {'tensorflow_datasets', 'sklearn', 'datasets'}),
    ],
)
def test_rooms_start_light(module, light_without):
    loaded = set(python(f'import sys, {module}; print(*sys.modules)').split())
    assert not {'tensorflow', 'torch', 'clu', *light_without} & loaded


@pytest.mark.parametrize(
    'door', [*DOORS, 'compare', 'export', 'models', 'report', 'visualize'], ids=str
)
def test_help_needs_no_jax(door):
    if door == 'fine_tuning':
        pytest.skip('no command')
    code = f"""
import runpy, sys
sys.argv = ['x', '--help']
try:
    runpy.run_module('vit_jax.{door}', run_name='__main__')
except SystemExit:
    pass
print(*sys.modules)
"""
    loaded = set(python(code).split())
    assert not {'jax', 'flax', 'grain', 'cv2', 'orbax', 'tensorflow_datasets'} & loaded
