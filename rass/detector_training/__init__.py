"""Training of the detectors that ship: data in, a JSON of weights out. Needs the development extra (scikit-learn)."""
