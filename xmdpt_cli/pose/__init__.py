"""The 18 keypoints: file formats, pose images, framing of people."""
