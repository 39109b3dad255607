"""Files of weights that are not read here, each with what to type instead."""

import pathlib

from vit_jax.files import kinds

_TORCH = ('.bin', '.pt', '.pth', '.ckpt')
# To be typed where PyTorch is installed. Its own files are programs: they can do
# anything when they are read, and are not read here.
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "w = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "w = w.get('state_dict', w.get('model', w)); "
    'save_file({k: v.contiguous() for k, v in w.items()}, sys.argv[2])" '
    '{path} {folder}/model.safetensors'
)
# Of the kinds of files, those that people have in the place of weights.
_KINDS = (
    'Git LFS pointer',
    'web page (HTML)',
    'file of HDF5, as Keras writes it',
    'model in ONNX',
)


def is_torch(path: pathlib.Path) -> bool:
    """Whether a file is PyTorch's, by its name."""
    return path.suffix in _TORCH and path.is_file()


def check(path: pathlib.Path) -> None:
    """Raises a ValueError for a file that another program must convert first."""
    if not path.is_file():
        return
    if is_torch(path):
        command = _CONVERT.replace('{path}', str(path))
        command = command.replace('{folder}', str(path.parent))
        raise ValueError(
            f"{path} is PyTorch's pickle. Convert it once, where PyTorch is installed, "
            f'and keep its config.json beside it:\n  {command}'
        )
    with path.open('rb') as file:
        kind = kinds.kind(file.read(kinds.START))
    if kind in _KINDS:
        hint = kinds.hint(kind) or 'Name the file of the weights'
        raise ValueError(
            f'{path} is not an .npz or .safetensors: it is a {kind}. {hint}.'
        )
