"""Weights for everyone: a run's network as safetensors with a model card, for timm, for torch.export, and as ONNX."""
