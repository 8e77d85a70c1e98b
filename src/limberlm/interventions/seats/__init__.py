"""The seats in a trainer that interventions share.

A penalty on activations adds its gradient inside the backward pass, at the outputs of blocks (`activations`); a penalty
on parameters adds its gradient before the optimiser's step (`parameters`). Both work in every trainer of TRL, through
`callbacks=` alone.
"""
