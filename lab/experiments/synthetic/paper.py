"""The paper's figures (model-spec §6, read off its plots): accuracies in per cent."""

LENGTHS = (256, 512, 1024, 2048)
PEAKS = {
    "palindrome": {"kda": (100, 100, 100, 42.2), "gdn": (100, 100, 97.0, 37.1), "mamba2": (100, 0, 0, 0)},
    "mqar": {"kda": (100, 100, 100, 47.6), "gdn": (100, 100, 78.7, 29.1), "mamba2": (97.6, 0, 0, 0)},
    "stack": {"kda": (100, 100, 100, 100), "gdn": (100, 100, 100, 100), "mamba2": (100, 100, 0, 0)},
}
EVERY = 2000  # steps between two points of a curve, at length 1024
CURVES = {
    "palindrome": {
        "kda": (18.2, 94.2, 98.9, 98.8, 99.6, 100),
        "gdn": (0, 0, 0, 30.0, 61.9, 76.9, 82.8, 98.7, 99.4, 97.0),
    },
    "mqar": {
        "kda": (93.4, 97.6, 99.1, 99.7, 100),
        "gdn": (0, 0, 0, 0, 0, 3.5, 12.9, 22.6, 41.7, 78.7),
    },
    "stack": {
        "kda": (58.9, 98.2, 99.4, 99.4, 99.6, 100),
        "gdn": (0, 63.3, 94.4, 99.2, 100),
        "mamba2": (0,) * 10,
    },
}
