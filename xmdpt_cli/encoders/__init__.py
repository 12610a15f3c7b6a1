"""The frozen networks (VAE, DINOv2, OpenPose), their weights and their identity in records."""
