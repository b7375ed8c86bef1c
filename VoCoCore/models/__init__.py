"""Networks and their weights: build_encoder in encoders.py (interface.py says what an encoder is), build_network in
networks.py (on decoders.py), projectors in heads.py; load_weights and save_weights in weights.py, save_model and
load_model, with the card of card.py, in model_files.py. The rest serves these: attention.py computes Swin's windows
in little memory, weight_files.py reads files that may be anything, published.py knows the names in published
checkpoints, coverage.py reports how much of a network a file filled, placing.py puts networks on a device.
"""
