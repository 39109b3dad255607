"""The files that were published: for each, where it was and where its twins are.

The bucket of the authors has refused anonymous access since February 2026. Most files
live on as the same weights under the names of timm and of Hugging Face's transformers,
on the Hugging Face hub: their twins. Which is which was read from timm's sources and
from the model cards; no twin was compared with its original by us.

google_files.csv has a row for each: those of Dosovitskiy et al. 2020; of Steiner et al.
2021 (AugReg) the recommended ones and those that timm has; the Mixers of Tolstikhin et
al. 2021; and those trained with SAM (Chen et al. 2021) and GSAM (Zhuang et al. 2022).
Sources: the listings in the original's notebook (sizes in MiB; ViT-S_16 of SAM is a
trainer's state, twice more than parameters), the README's tables (accuracies), timm's
`vision_transformer*.py` and `mlp_mixer.py` (which file a model of theirs was converted
from).
"""

import csv
import dataclasses
import importlib.resources
import pathlib
import re
from collections.abc import Iterator

I21K, I1K = 21_843, 1_000


@dataclasses.dataclass(frozen=True)
class Published:
    """One file.

    Attributes:
        model: the architecture's name in the zoo.
        path: bucket, folder and name: 'vit_models/imagenet21k/ViT-B_16.npz'.
        num_classes: outputs of its head.
        image_size: side in pixels of the images it was trained on.
        timm: ids on the Hugging Face hub, with timm's names of the parameters.
        huggingface: ids there, with transformers' names.
        accuracy: top-1 on ImageNet's validation set in percent, where published.
        size_mib: of the file, as the bucket listed it.
    """

    model: str
    path: str
    num_classes: int
    image_size: int
    timm: tuple[str, ...] = ()
    huggingface: tuple[str, ...] = ()
    accuracy: float | None = None
    size_mib: float | None = None

    @property
    def url(self) -> str:
        """Returns where the file was served."""
        return f'gs://{self.path}'

    @property
    def twins(self) -> tuple[str, ...]:
        """Returns references to the same weights on the hub."""
        return tuple(f'hf://{name}' for name in (*self.timm, *self.huggingface))


def _rows() -> Iterator[Published]:
    """Yields the rows of google_files.csv."""
    file = importlib.resources.files('vit_jax.models.zoo') / 'google_files.csv'
    for row in csv.DictReader(file.read_text().splitlines()):
        yield Published(
            row['model'],
            row['path'],
            int(row['num_classes']),
            int(row['image_size']),
            timm=tuple(row['timm'].split()),
            huggingface=tuple(row['huggingface'].split()),
            accuracy=float(row['accuracy']) if row['accuracy'] else None,
            size_mib=float(row['size_mib']) if row['size_mib'] else None,
        )


PUBLISHED = tuple(_rows())

_BY_PATH = {row.path: row for row in PUBLISHED}
_BY_HUB_ID = {name: row for row in PUBLISHED for name in (*row.timm, *row.huggingface)}
# timm's tags of weights that Google trained; augreg2_… are timm's own fine-tunes.
_GOOGLE_TAGS = re.compile(r'(augreg|orig|sam|goog)_in(1k|21k)(_ft_in1k)?')


def find(reference: str) -> Published | None:
    """Returns the published file that a reference names, or None.

    Known are `gs://…` and `https://storage.googleapis.com/…`, ids of the hub with and
    without `hf://`, and local paths: by folder and name (`imagenet21k/ViT-B_16.npz`),
    or by the name alone where only one published file has it.
    """
    text = re.sub(r'[#?].*', '', reference).replace('%2B', '+')
    text = re.sub(r'^(gs://|https?://storage\.googleapis\.com/)', '', text)
    if text in _BY_PATH:
        return _BY_PATH[text]
    hub = re.match(r'(?:hf://)?([^/@]+/[^/@]+)', text)
    if hub and hub[1] in _BY_HUB_ID:
        return _BY_HUB_ID[hub[1]]
    parts = pathlib.PurePath(text).parts
    for known in (2, 1):
        end = '/'.join(parts[-known:])
        found = [row for path, row in _BY_PATH.items() if path.endswith(f'/{end}')]
        if len(found) == 1 and parts:
            return found[0]
    return None


def alternatives(reference: str) -> list[str]:
    """Returns references to the same weights elsewhere, or to their nearest kin.

    For a file that is not in the table, or has no twin, they are the twins of files of
    the same architecture.
    """
    row = find(reference)
    name = pathlib.PurePath(reference).name.removesuffix('.npz')
    if row is not None:
        twins = [twin for twin in (row.url, *row.twins) if twin != reference]
        if row.twins:
            return [twin for twin in twins if not twin.startswith('gs://')] or twins
    same = [
        other
        for other in PUBLISHED
        if other.model == (row.model if row else name) and other.twins
    ]
    return [twin for other in same for twin in other.twins]


def google_trained(hub_id: str) -> bool:
    """Returns whether weights on the hub are Google's own, in other names.

    Those were trained with the tanh form of GELU and the original's epsilons, whatever
    the port that carries them computes. For all others the answer is no.

    Args:
        hub_id: 'timm/vit_base_patch16_224.augreg_in21k', or without the owner.
    """
    hub_id = hub_id.removeprefix('hf://').partition('@')[0]
    if hub_id in _BY_HUB_ID or f'google/{hub_id}' in _BY_HUB_ID:
        return True
    _, _, tag = hub_id.rpartition('/')[2].partition('.')
    return bool(_GOOGLE_TAGS.fullmatch(tag))
