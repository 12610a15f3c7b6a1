"""Where pictures, pairs and keypoints lie on people's disks."""
