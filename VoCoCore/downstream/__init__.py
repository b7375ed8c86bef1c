"""Fine-tuning tasks: what is computed for one batch of labelled crops.

`segmentation.py` and `classification.py` are the tasks, `losses.py` their losses, `scores.py` counts how well they do.
"""
