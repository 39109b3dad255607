"""A family of networks: all that the library has to know of one, in one record."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn

# A model's configuration, as in MODEL_CONFIGS, or a module of the family.
Config = Any
Facts = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
Grid = tuple[int, int]

# What all families call so: the end of a layer's name -> what it does.
WORDS = {'pre_logits': 'what the head sees', 'head': 'logits'}


def every_pixel(config: Config, image_size: tuple[int, int]) -> Grid:
    """Returns the grid of a network without patches: the image's own."""
    del config
    return tuple(image_size)


def unrefined(config: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Returns the configuration: files of the same facts do not differ."""
    del shapes
    return config


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A kind of network, as the rest of the library sees it.

    A name and a module are enough. The rest has defaults, with which a network trains
    and predicts, but shares less: without stems no blocks are stacked and layer-wise
    decay sees one layer, without facts no file without a card is recognised.

    Attributes:
        name: for people.
        module: the class of the network. Its fields are the keys of a configuration;
            `num_classes` has to be one of them. It is called with (images, train).
        state: the collections that it may have besides 'params'.
        stems: the blocks are called {stem}_0, {stem}_1, … and have the same shapes.
        units: regular expressions up to the number of what else repeats in a row, for
            the shape trace.
        after: a regular expression for names that come after the last block. What is
            neither in a block nor after them comes before.
        attention: the name, in a block, of what sows `attention_weights`, or ''.
        token_kernel: the name, in a block, of a kernel over the tokens, or ''. With
            one, the weights are bound to images of one size.
        position_embedding: its name, (1 n d), or ''.
        input_kernels: names of kernels (h w c d); the first that is there sees the
            image. () stands for images of three channels.
        grid: from a configuration and (height, width) in pixels to the rows and columns
            of patches; a ValueError says which images the network takes.
        num_patches: from shapes to how many patches the weights have positions for, or
            0 where they have none.
        facts_of_shapes: from the shapes in a file to what distinguishes networks, by
            names for people; None: they are not of this family. Leave it out if
            shapes do not tell.
        facts_of_config: the same facts of a configuration.
        config_of_facts: the configuration of a network with these facts.
        refine: from a configuration and shapes to a configuration in which that is
            right in which files of the same facts differ.
        words: the end of a layer's name -> what it does, for the shape trace.
    """

    name: str
    module: type[nn.Module]
    state: tuple[str, ...] = ('batch_stats',)
    stems: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    after: str = r'(^|/)(pre_logits|head)/'
    attention: str = ''
    token_kernel: str = ''
    position_embedding: str = ''
    input_kernels: tuple[str, ...] = ()
    grid: Callable[[Config, tuple[int, int]], Grid] = every_pixel
    num_patches: Callable[[Shapes], int] = lambda shapes: 0
    facts_of_shapes: Callable[[Shapes], Facts | None] | None = None
    facts_of_config: Callable[[Config], Facts] = lambda config: {}
    config_of_facts: Callable[[Facts], dict[str, Any]] | None = None
    refine: Callable[[dict[str, Any], Shapes], dict[str, Any]] = unrefined
    words: Mapping[str, str] = dataclasses.field(default_factory=lambda: WORDS)

    def block_of(self, name: str) -> int | None:
        """Returns the number of the block that a parameter or feature is in."""
        stems = '|'.join(map(re.escape, self.stems))
        match = re.search(rf'(?:^|/)(?:{stems})_(\d+)/', name) if stems else None
        return int(match[1]) if match else None

    def is_after(self, name: str) -> bool:
        """Returns whether a parameter comes after the last block."""
        return bool(re.search(self.after, name))

    def fields(self) -> dict[str, dataclasses.Field]:
        """Returns the fields of the module that a configuration can set, by name."""
        return {
            field.name: field
            for field in dataclasses.fields(self.module)
            if field.name not in ('parent', 'name', 'num_classes')
        }


def count_blocks(names: Iterable[str], stem: str) -> int:
    """Returns how many blocks {stem}_0, {stem}_1, … parameters belong to."""
    block = re.compile(rf'{re.escape(stem)}_(\d+)/')
    return len({match[1] for name in names if (match := block.match(name))})
