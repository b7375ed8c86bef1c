"""Training: one step loop for every job, schedule, checkpoints, held-out diagnostics.

`attempt` is what all jobs share, `loop.run_steps` the loop; `pretrain.pretrain` and `finetune.finetune` are the jobs.
"""
