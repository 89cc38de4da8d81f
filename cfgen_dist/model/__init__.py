"""The model in plain PyTorch: tensors in, tensors out; no files, no Ray, no Lightning."""
