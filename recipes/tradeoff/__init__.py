"""What is learnt against what is forgotten: foundation-preserving LoRA and its rivals, each at its own best settings.

python -m recipes.tradeoff run --out runs/tradeoff --jobs 2
python -m recipes.tradeoff table --out runs/tradeoff
"""
