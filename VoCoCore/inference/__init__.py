"""From a trained network and a volume to a segmentation or a diagnosis.

`windows` runs a network over a volume, `sums` keeps what windows add up to, `swift` makes networks quicker on a CPU,
`restore` leads back to the source's grid, `predict` does one case, `job` many, `results` writes them.
"""
