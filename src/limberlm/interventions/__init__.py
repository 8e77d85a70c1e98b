"""What is added to a stage to keep the model supple: callbacks and datasets for any trainer of TRL."""
