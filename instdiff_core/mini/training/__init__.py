"""Training of the embedded model, and of the models that only the benchmarks use, from scratch.

`world` draws pictures and their captions, `shards` keeps them on disk, `run` is one training of any
model, and `autoencoder`, `unets` and `flow` are the models that are trained.
"""
