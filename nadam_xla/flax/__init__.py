"""Flax's training states with the step in one pass: ``train_state`` for linen, ``nnx`` for NNX.

Neither is imported before it is asked for.
"""
