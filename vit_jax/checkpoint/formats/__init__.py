"""The files that weights stand in: .npz, safetensors, runs of the original."""
