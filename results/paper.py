"""The paper's figures, Chen et al. 2017: test NLL in nats; beside them what its text and data can be taken for."""

TABLES = {
    "static-mnist": {
        "normalizing flows": "85.10", "DRAW": "< 80.97", "discrete VAE": "81.01", "PixelRNN": "79.20",
        "IAF VAE": "79.88", "AF VAE": "79.30", "VLAE": "79.03",
    },
    "dynamic-mnist": {
        "convolutional VAE + HVI": "81.94", "IWAE": "82.90", "discrete VAE": "80.04", "LVAE": "81.74",
        "DRAW + VGP": "< 79.88", "IAF VAE": "79.10", "decoder alone": "87.55", "VLAE": "78.53",
    },
    "omniglot": {
        "VAE": "106.31", "IWAE": "103.38", "RBM": "100.46", "DRAW": "< 96.50", "ConvDRAW": "< 91.00",
        "decoder alone": "95.02", "VLAE": "90.98", "VLAE, fine-tuned": "89.83",
    },
    "caltech101": {
        "RWS SBN": "113.3", "RBM": "107.8", "NAIS NADE": "100.0", "discrete VAE": "97.6", "SpARN": "88.48",
        "decoder alone": "89.26", "VLAE": "77.36",
    },
}  # fmt: skip
"""Tables 1 to 4 in order."""
PAPER = {data: {model: float(nll.lstrip("< ")) for model, nll in rows.items()} for data, rows in TABLES.items()}
PAPER_DIFFERENCES = {
    ("static-mnist", "IAF VLAE", "VLAE"): "0.6",
    ("dynamic-mnist", "Gaussian VLAE", "VLAE"): f"{79.48 - 78.94:.2f}",
}
"""Of models that its tables have no row for."""
TEST_IMAGES = {"static-mnist": 10_000, "dynamic-mnist": 10_000, "omniglot": 8_070, "caltech101": 2_307}
STAND_IN = "omniglot (not the published files)"
"""The drawings of OMNIGLOT made into 28x28 pixels anew: figures on it never stand beside the paper's."""
WIRINGS = {
    (5, 1, None): "R1: 5 residual blocks of one masked convolution",
    (6, 2, (0, 0, 1, 1)): "R2: 3 residual blocks of two",
    (12, 2, None): 'R4: 6 residual blocks of two; the preset "paper", untied',
}
