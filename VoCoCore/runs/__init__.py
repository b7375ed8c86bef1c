"""A run is a folder: settings, events, status, checkpoints and weights of one job.

Whoever reads the folder can watch, stop and resume the job, from the same machine or from another one.
Standard library only, because this code also runs inside 3D Slicer.
"""
