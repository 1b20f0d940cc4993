"""The parts of `gpu_check.py`, a file for each question; what they share is in `lines`, `processes` and `samples`.

A part is a function of (device, scale, folder) that yields a `Line` for each thing it looked at. ``scale`` is a key of
the table of sizes at its head: `full` and `quick` are for a GPU, `tiny` lets tests run the same code on the CPU.
``folder`` is scratch that all parts of a call share, so that large checkpoints are written once. Nothing here imports
Ray, MLflow or pydantic at its top: a part that needs one of them imports it when it runs, and is skipped without.
"""
