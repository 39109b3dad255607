"""Measures parts of vit_jax on the machine at hand.

    python scripts/benchmark model            # training step and inference
    python scripts/benchmark model --baseline linen     # against flax's own layers
    python scripts/benchmark input            # the input pipeline
    python scripts/benchmark input --json     # the same as JSON
    python scripts/benchmark input --baseline tf.data   # against tf.data
    python scripts/benchmark train            # the training loop, and its start
    python scripts/benchmark predict          # files to probabilities
    python scripts/benchmark scaling          # memory and collectives by devices
    python scripts/benchmark layers           # scan_layers against unrolled blocks
    python scripts/benchmark gpu              # what a GPU is wanted for, in 8 minutes

What is compared runs alternately in one process, so that whoever shares the machine
disturbs both alike. Ratios are formed within each pair of runs; the table shows their
median and range.
"""

import argparse
import json
import pathlib
import sys

# Run as a folder, Python looks for modules inside it; they are those of a package.
# And vit_jax may not be installed.
_SCRIPTS = pathlib.Path(__file__).parents[1]
sys.path[0] = str(_SCRIPTS)
sys.path.append(str(_SCRIPTS.parent))

from benchmark import (  # noqa: E402
    devices,
    gpu,
    layers,
    loop,
    machine,
    network,
    pipeline,
    prediction,
)

PARTS = (network, pipeline, loop, prediction, devices, layers, gpu)


def main(argv: list[str] | None = None) -> None:
    """Runs one part of the benchmark."""
    parser = argparse.ArgumentParser(
        prog='benchmark',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest='part', required=True)
    for part in PARTS:
        part.add_parser(subparsers)
    args = parser.parse_args(argv)
    report = {
        'machine': machine.processor(),
        'cores': machine.available_cores(),
        'part': args.part,
    }
    if not args.json:
        print(f'{report["machine"]}, {report["cores"]} cores', flush=True)
    try:
        report['rows'] = args.run(args)
    except ValueError as error:
        parser.exit(2, f'benchmark: {error}\n')
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        args.show(report['rows'])


if __name__ == '__main__':
    main()
