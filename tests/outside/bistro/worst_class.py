"""A metric: how much is found of the class of which least is."""

import numpy as np

from pipeline.metrics import Metric


def worst_class(labels, predictions, num_classes):
    found = [float((predictions[labels == label] == label).mean()) for label in np.unique(labels)]
    return min(found)


WORST_CLASS = Metric("worst_class", "accuracy of the worst class", worst_class)
