"""Training: one step loop for every job, devices and precision, schedule, checkpoints, held-out diagnostics.

`pretrain.pretrain` is the whole job; `loop.run_steps` the loop.
"""
