"""Searches anew for the launch options of kernels/table.py, on the GPU that is there, and prints the table's rows.

    python -m benchmarks.tune_kernels [--images 1024] [--dry-run]

--dry-run needs no GPU: it compiles every candidate for sm_90 and prints what each takes: registers, spills, memory.
"""

import argparse
import itertools
import statistics
from unittest import mock

import torch

from benchmarks.case import Call
from benchmarks.launches import bodies
from benchmarks.ops import pixelcnn
from benchmarks.registry import named
from benchmarks.timing import gpu_milliseconds
from vlae_fast.kernels import ahead_of_time, table
from vlae_fast.kernels.table import Config

# Kernel -> candidates.
CANDIDATES = {
    "pixelcnn": [Config(*c) for c in itertools.product((512, 1024), (8, 16), (1, 2))],
    "pixelcnn_weights": [Config(*c) for c in itertools.product((16, 32, 64), (4, 8), (2, 4, 8))],
    "masked_conv3x3": [Config(*c, 1) for c in itertools.product((128, 256, 512), (2, 4))],
    "masked_conv3x3_weight": [Config(*c) for c in itertools.product((16, 32, 64), (4, 8), (2, 4, 8))],
}

LARGEST = {
    "pixelcnn": "pixelcnn log_prob backward",
    "pixelcnn_weights": "pixelcnn backward weights",
    "masked_conv3x3": "masked_conv3x3 dx B",
    "masked_conv3x3_weight": "masked_conv3x3 dweight B",
}
"""The variant with the most registers, as a rule."""


def chosen(kernel: str, config: Config):
    """A context in which the table has nothing but this choice for the kernel."""
    return mock.patch.dict(table.TABLE, {kernel: {0: {0: config}}})


def calls(images: int, device: str) -> dict[str, Call]:
    """Kernel -> a function that launches it: tied layers, 28 x 28, 12 channels."""
    stack = bodies(named("pixelcnn_log_prob + gradients").ours(**pixelcnn.BASE | {"N": images}), device)
    layer = bodies(named("masked_conv3x3 + gradients").ours(N=images, image=28, channels=12), device)
    return {
        "pixelcnn": stack["pixelcnn_log_prob"],
        "pixelcnn_weights": stack["pixelcnn_log_prob_backward"],
        "masked_conv3x3": layer["masked_conv3x3"],
        "masked_conv3x3_weight": layer["masked_conv3x3_backward"],
    }


def milliseconds(call: Call, repeats: int = 20) -> float:
    """Median time of a call on the GPU, after two to warm up."""
    return statistics.median([gpu_milliseconds(call) for _ in range(repeats + 2)][2:])


def measure(images: int) -> None:
    """Times every candidate on this GPU."""
    major, minor = torch.cuda.get_device_capability()
    print(f"{torch.cuda.get_device_name()}, sm_{10 * major + minor}, {images} images")
    for kernel, call in calls(images, "cuda").items():
        found = {}
        for config in CANDIDATES[kernel]:
            with chosen(kernel, config):
                found[config] = milliseconds(call)
            print(f"  {kernel} {tuple(config)}: {found[config]:.3f} ms", flush=True)
        print(f'"{kernel}": {{12: {min(found, key=found.get)}}}')


def compile_all(architecture: int) -> None:
    """Compiles the largest variant of every candidate."""
    for kernel, configs in CANDIDATES.items():
        for config in {c._replace(programs=1): c for c in configs}.values():
            with chosen(kernel, config):
                (variant,) = (v for v in ahead_of_time.variants(architecture) if v.name == LARGEST[kernel])
                used = ahead_of_time.resources(ahead_of_time.compile_variant(variant, architecture))
                print(f"sm_{architecture} {variant.name}, {config}: {used}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    compile_all(90) if arguments.dry_run else measure(arguments.images)
