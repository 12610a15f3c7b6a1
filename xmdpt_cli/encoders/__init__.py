"""The frozen networks (VAE, DINOv2, OpenPose) and where their weights come from."""
