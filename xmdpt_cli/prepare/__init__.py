"""From a raw dataset to a prepared one: shards of images, keypoints and encoder features."""
