"""How long files and functions are, and how wide their signatures."""

import ast

import declared
import pytest

ROOT = declared.ROOT
SOURCES = sorted(
    path
    for name in ('vit_jax', 'configs', 'scripts')
    for path in ROOT.glob(f'{name}/**/*.py')
)
FILE, FUNCTION, PARAMETERS, AT_THE_ROOT = 400, 80, 8, 12
# docs/architecture.md says why each of these is an exception.
EXCEPTIONS: set[str] = set()


def functions(path):
    """Yields (qualified name, node, whether it is public) of a file's functions."""

    def visit(node, scope, public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f'{scope}{child.name}'
                inside = public and not child.name.startswith('_')
                if not isinstance(child, ast.ClassDef):
                    yield name, child, inside
                    inside = False
                yield from visit(child, f'{name}.', inside)

    yield from visit(ast.parse(path.read_text()), '', True)


def name_of(path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_a_file_is_one_concept(path):
    lines = path.read_text().count('\n')
    assert lines <= FILE


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_functions_fit_a_screen_and_signatures_a_head(path):
    long, wide = [], []
    for name, node, public in functions(path):
        lines = node.end_lineno - node.lineno + 1
        count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
        count -= bool(node.args.args and node.args.args[0].arg in ('self', 'cls'))
        if lines > FUNCTION:
            long.append((name, lines))
        if public and count > PARAMETERS:
            wide.append((name, count))
    excepted = [x for x in (*long, *wide) if f'{name_of(path)}:{x[0]}' in EXCEPTIONS]
    assert [x for x in (*long, *wide) if x not in excepted] == []


def test_train_is_the_story_of_a_run():
    lines = (ROOT / 'vit_jax/train.py').read_text().count('\n')
    assert lines <= 120
    assert len(list((ROOT / 'vit_jax').glob('*.py'))) <= AT_THE_ROOT


def test_exceptions_are_named_with_their_reason():
    text = (ROOT / 'docs/architecture.md').read_text()
    assert [name for name in EXCEPTIONS if name.partition(':')[2] not in text] == []
