"""What the VoCo module of 3D Slicer is made of: logic without Qt, and the panels that bind it."""

from VoCoSlicerLib.core import useCore

useCore()
