"""Pretext tasks: what a network learns from volumes without labels.

`task` is what the training loop knows of them, `voco` the one there is; `voco_losses` holds its equations.
"""
