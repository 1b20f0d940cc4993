"""Backbone and classification head as one module, and the starting point theta0 of a sweep."""

from pipeline.models.backbone import BACKBONES, Backbone, BackboneModule, backbone_file, backbone_module, load_backbone
from pipeline.models.classifier import Classifier, build_classifier, describe_model
from pipeline.models.foreign import own_names
from pipeline.models.theta0 import make_theta0

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneModule",
    "Classifier",
    "backbone_file",
    "backbone_module",
    "build_classifier",
    "describe_model",
    "load_backbone",
    "make_theta0",
    "own_names",
]
