"""Generation of images from a trained model."""
