"""VoCoCore: pre-training of 3D medical image encoders by volume contrast (VoCo).

Importing the package imports nothing else: each room (runs, data, models, ...) is imported by name.
"""

__version__ = "0.1.0"
