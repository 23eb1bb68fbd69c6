"""What is timed, a module a stem: inputs, our call, the contenders, and what the call cannot do without.

Imports nothing: gpu_report.py reads the names before the package is built.
"""

STEMS = ("model", "pixelcnn", "made", "masked_conv", "resnet", "weight_norm")
"""In the order of the reports."""
