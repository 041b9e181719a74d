"""Weights for everyone: a run's network as safetensors with a model card, in timm's layout, for torch.export, as ONNX."""
