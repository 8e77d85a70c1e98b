"""Foundation-preserving LoRA (arXiv 2606.00132): a basis from second moments, a start, an optimizer, a drift meter."""
