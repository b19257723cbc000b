"""The only room that touches private API of torch or Lightning: what makes a step faster, in the same arithmetic.

`RL_LIGHTNING_FAST=0` in the environment turns all of it off: then torch's and Lightning's own public ways run.
"""
