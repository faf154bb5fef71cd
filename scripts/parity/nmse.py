#!/usr/bin/env python3
"""Normalised mean square errors: WANT.npy HAVE.npy [HAVE.npy …], as a JSON list. Run with a Python that has numpy."""

import json
import sys

import numpy as np


def main():
    want, *rest = (np.load(path).astype(np.float64) for path in sys.argv[1:])
    print(json.dumps([float(((have - want) ** 2).sum() / (want**2).sum()) for have in rest]))


main()
