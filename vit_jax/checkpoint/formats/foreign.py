"""Files of weights that are not read here, each with what to type instead."""

import pathlib

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
_STARTS = {
    b'version https://git-lfs': (
        'is a Git LFS pointer, which stands for the weights. Get them by '
        "'git lfs pull' in its repository, or by hf://owner/repo"
    ),
    b'\x89HDF': 'is HDF5, as Keras writes it; expected .npz or .safetensors',
    b'<!doctype html': 'is a web page, not what it shows; name the file itself',
    b'<html': 'is a web page, not what it shows; name the file itself',
    b'\x08\x07\x12': 'is ONNX, which has no names; expected .npz or .safetensors',
}


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
        start = file.read(64).lower()
    for begin, reason in _STARTS.items():
        if start.startswith(begin.lower()):
            raise ValueError(f'{path} {reason}.')
