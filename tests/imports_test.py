"""Who may import whom, read from the sources; and what imports bring with them."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import declared
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'vit_jax').rglob('*.py'))
RECIPES = sorted((ROOT / 'configs').glob('*.py'))

# What each room may import of ours; docs/architecture.md says why.
ALLOWED = {
    'models': {'models'},
    'checkpoint': {'checkpoint', 'models'},
    'data': {'data'},
    'config': {'models'},
    'sharding': set(),
    'optim': {'models'},
    'interruption': set(),
    'commands': {'checkpoint', 'compilation_cache', 'data'},
    'compilation_cache': {'checkpoint'},
    'compiler': set(),
    'profiling': set(),
    'memory': set(),
    'convert': {'checkpoint', 'commands'},
    'preprocessing': {'checkpoint', 'data'},
    'predictor': {'checkpoint', 'data', 'models', 'sharding'},
    'shapes': set(),
    'predict': {'checkpoint', 'commands', 'data', 'predictor'},
    'judgement': {'data', 'predictor'},
    'evaluate': {
        *('checkpoint', 'commands', 'data', 'judgement', 'metrics', 'models'),
        *('predictor', 'sharding', 'visualize'),
    },
}
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
        'def f():\n  from vit_jax.data.ops import decode\n  return jax.pmap(f)'
    )
    found = imports(tree)
    assert found == {
        'a.b',
        'vit_jax.train',
        'vit_jax.models',
        'vit_jax.data.ops.decode',
    }
    assert rooms(found) == {'train', 'models', 'data'}
    assert BANNED.match(attributes(tree).pop())
    assert BANNED.match('torch')
    assert BANNED.match('flax.training.checkpoints')
    assert not BANNED.match('tensorflow_datasets')


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_rooms_import_only_what_they_may(path):
    room = name_of(path).split('.')[1]
    found = rooms(imports(ast.parse(path.read_text())))
    assert found <= ALLOWED.get(room, found)
    if room == 'evaluate':
        assert not any(name.startswith('train') for name in found)


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
